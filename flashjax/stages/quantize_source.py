"""`quantize --source`: any checkpoint's transformer to the formats that runtimes deploy."""

import argparse
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax

from flashjax.convert import folder as folders
from flashjax.convert.reading import open_safetensors, read_json
from flashjax.convert.sai import split_file
from flashjax.convert.sizes import mmdit_sizes
from flashjax.convert.transformer import (
    cropped_position,
    transformer_from,
    transformer_to,
    translated,
)
from flashjax.convert.writing import write_json
from flashjax.data.prompts import read_prompts
from flashjax.data.tokenizers import load_tokenizers
from flashjax.evaluate.sample import draw_noise
from flashjax.flow.schedule import student_sigmas
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.text import encode_text
from flashjax.quantize.calibrate import mean_decibels, second_moments, velocity_errors
from flashjax.quantize.exchange import EXCHANGES
from flashjax.quantize.formats import (
    FORMATS,
    Model,
    check_formats,
    dequantised,
    fidelity,
    open_format,
    write_format,
)
from flashjax.quantize.gguf import open_gguf
from flashjax.quantize.gguf_export import UNCALIBRATED, Calibration
from flashjax.quantize.t5 import T5_FORMATS
from flashjax.stages.quantize_text import write_text
from flashjax.stages.sources import (
    home_of,
    kind_of,
    open_pipeline,
    open_transformer,
    read_parts,
)
from flashjax.types import Cond, InputError, Params

Way: TypeAlias = tuple[MMDiTConfig, Params, Cond, jax.Array, list[float]]

log = logging.getLogger(__name__)


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The flags of the verb where it works without a config."""
    verb.add_argument("--source", required=True, metavar="PATH", help="any checkpoint")
    verb.add_argument("--base", metavar="DIR", help="a pipeline's folder with the sizes it lacks")
    verb.add_argument("--out", required=True, metavar="DIR", help="where the formats go")
    known = ", ".join((*FORMATS, *T5_FORMATS))
    verb.add_argument("--format", required=True, metavar="NAME[,NAME]", help=known)
    verb.add_argument("--position", type=int, metavar="N", help="keep N x N patches of the table")
    verb.add_argument("--calibrate", metavar="FILE", help="prompts: Q6_K rounded for outputs")
    verb.add_argument("--measure", metavar="FILE", help="prompts: how far the output moves")
    verb.add_argument("--steps", type=int, default=4, help="of the student, for both")
    verb.add_argument("--seed", type=int, default=0, help="of the noise, for both")
    verb.add_argument("--title", default="quantized by flashjax", help="in the files")


def run(options: argparse.Namespace) -> None:
    """Writes every format with a table of its fidelity, and prints where."""
    given = options.format.split(",")
    names = [name for name in given if name not in T5_FORMATS]
    check_formats(names)
    if options.measure and options.position:
        raise InputError("--measure compares with the whole position table: leave out --position")
    sized = [name for name in names if name in EXCHANGES and EXCHANGES[name].sized]
    if options.measure and sized:
        raise InputError(f"--measure compares with the whole position table: leave out {sized[0]}")
    for name in given:
        if name in T5_FORMATS:
            print(write_text(name, Path(options.source), Path(options.out)))
    if not names:
        return
    base = Path(options.base) if options.base else None
    model = open_model(Path(options.source), base=base, title=options.title)
    if options.position:
        tensors = cropped_position(model.tensors, options.position)
        model = Model(tensors, mmdit_sizes(tensors), model.title, model.sample_size)
    calibration = UNCALIBRATED
    if options.calibrate:
        way = students_way(options, base, options.calibrate, seed=options.seed)
        calibration = Calibration(second_moments(*way), {})
    measure = None
    if options.measure:  # other noise than what was calibrated on
        way = students_way(options, base, options.measure, seed=options.seed + 1)
        measure = velocity_errors(*way)
    for name in names:
        path = write_format(name, model, Path(options.out), calibration)
        table = check(path, model)
        log.info("%s: %s", name, summary(path, table))
        if measure:
            ratios = measure(transformer_from(open_format(path, model.config), model.config, "sai"))
            steps = " ".join(f"{ratio:.1f}" for ratio in ratios)
            log.info("%s: output %.1f dB, by step %s", name, mean_decibels(ratios), steps)
        print(path)


def students_way(options: argparse.Namespace, base: Path | None, prompts: str, *, seed: int) -> Way:
    """The student with all that it needs to draw the prompts of a file, step by step."""
    source = Path(options.source)
    pipeline = open_pipeline(source, base=base)
    captions = read_prompts(prompts)
    tokens = load_tokenizers(home_of(source, base))(captions)
    encode = jax.jit(lambda text, tokens: encode_text(pipeline.text_config, text, tokens))
    size, config = pipeline.sample_size, pipeline.transformer_config
    noise = draw_noise(seed, len(captions), (size, size, config.channels))
    sigmas = student_sigmas(options.steps, pipeline.shift).tolist()
    cond = encode(pipeline.text, tokens)
    return config, pipeline.transformer, cond, jax.numpy.asarray(noise), sigmas


def open_model(source: Path, *, base: Path | None = None, title: str = "") -> Model:
    """The transformer of any checkpoint, read tensor by tensor where the source is a file."""
    kind = kind_of(source)
    size = folders.settings(base)["sample_size"] if base else 128
    if kind in ("single", "gguf"):
        opened = open_gguf(source) if kind == "gguf" else dequantised(open_safetensors(source))
        tensors = split_file(opened)["transformer"]
        return Model(tensors, mmdit_sizes(tensors), title, size)
    if kind in ("pipeline", "transformer"):
        folder = source / "transformer" if kind == "pipeline" else source
        stored, config = open_transformer(folder)
        tensors = translated(stored, config, given="diffusers", wanted="sai")
        size = int(read_json(folder / "config.json").get("sample_size") or size)
        return Model(tensors, config, title, size)
    known = folders.read_configs(base) if base else {}
    params, config = read_parts(source, known=known, names=("transformer",))["transformer"]
    return Model(transformer_to(params, config, "sai"), config, title, size)


def check(path: Path, model: Model) -> Mapping[str, float]:
    """Reads a format back, and writes the fidelity of every tensor beside it."""
    table = fidelity(model.tensors, open_format(path, model.config))
    rows: dict[str, Any] = {
        name: {"snr_db": ratio if math.isfinite(ratio) else None} for name, ratio in table.items()
    }
    write_json(path.with_name(path.name + ".json"), rows)
    return table


def summary(path: Path, table: Mapping[str, float]) -> str:
    """Size and fidelity in a line."""
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    worst = min(table, key=lambda name: table[name])
    return f"{size:,} bytes, every tensor at {table[worst]:.1f} dB or better ({worst})"
