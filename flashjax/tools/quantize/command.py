"""`quantize --source`: any checkpoint's transformer to the formats that runtimes deploy."""

import argparse
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashjax.convert import folder as folders
from flashjax.convert.adapters import Lora, check_used, merged, open_loras
from flashjax.convert.reading import read_json
from flashjax.convert.sizes import mmdit_sizes
from flashjax.convert.transformer import cropped_position
from flashjax.convert.writing import write_json
from flashjax.data.prompts import read_prompts
from flashjax.quantize.calibrate import mean_decibels, velocity_errors
from flashjax.quantize.containers.gguf import read_gguf
from flashjax.quantize.containers.t5 import T5_FORMATS
from flashjax.quantize.formats import (
    FORMATS,
    INFORMED,
    MIXED,
    TUNED,
    Model,
    fidelity,
    open_format,
    read_format,
    write_format,
)
from flashjax.quantize.graphs.exchange import EXCHANGES
from flashjax.quantize.graphs.pipelines import COMPANIONS, PIPELINES
from flashjax.sources import LORA_FLAG, base_folder, kind_of, open_transformer
from flashjax.tools.quantize.memory import print_table
from flashjax.tools.quantize.page import Format
from flashjax.tools.quantize.pipeline import write_pipeline
from flashjax.tools.quantize.report import Written, write_report
from flashjax.tools.quantize.student import open_student, unseen_scenes
from flashjax.tools.quantize.text import write_text
from flashjax.tools.quantize.variants import variants
from flashjax.types import InputError, Params

NAMES = (*FORMATS, *T5_FORMATS, *PIPELINES)
MEASURED = 64  # of a report's captions: those whose velocities are compared

NEEDED = {"calibrate": INFORMED, "size_mb": (MIXED,), "tune": (TUNED,)}  # flag: formats

log = logging.getLogger(__name__)


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The flags of the verb where it works without a config."""
    verb.add_argument("--source", "--in", dest="source", metavar="PATH", help="any checkpoint")
    verb.add_argument("--base", metavar="DIR", help="a pipeline's folder with the sizes it lacks")
    verb.add_argument("--lora", **LORA_FLAG)
    verb.add_argument("--out", metavar="DIR", help="where the formats go")
    verb.add_argument("--format", metavar="NAME[,NAME]", help=", ".join(NAMES))
    verb.add_argument("--memory", metavar="MODEL[,MODEL]", help="only say what models need")
    verb.add_argument("--position", type=int, metavar="N", help="keep N x N patches of the table")
    verb.add_argument("--calibrate", metavar="FILE", help=f"prompts, for {', '.join(INFORMED)}")
    verb.add_argument("--size_mb", type=float, metavar="N", help=f"of the file {MIXED}, at most")
    verb.add_argument("--tune", type=int, metavar="N", help=f"steps of training, for {TUNED}")
    verb.add_argument("--measure", metavar="FILE", help="prompts: how far the output moves")
    verb.add_argument("--report", action="store_true", help="OUT/report.html: drawn side by side")
    verb.add_argument(
        "--samples", type=int, default=500, help="unseen scenes of the report without --measure"
    )
    verb.add_argument("--steps", type=int, default=4, help="of the student")
    verb.add_argument("--seed", type=int, default=0, help="of noise and scenes")
    verb.add_argument("--title", default="quantized by flashjax", help="in the files")


def run(options: argparse.Namespace) -> None:
    """Writes every format with a table of its fidelity, and prints where."""
    if options.memory:
        return print_table(options.memory)
    names = check_options(options)
    check_used(loras_of(options), sorted({network for name in names for network in of(name)}))
    for name in names:
        if name in T5_FORMATS:
            print(write_text(name, Path(options.source), Path(options.out), loras_of(options)))
    if whole := [name for name in names if name in PIPELINES]:
        write_pipelines(options, whole)
    if single := [name for name in names if name in FORMATS]:
        write_transformer(options, single)


def write_pipelines(options: argparse.Namespace, names: list[str]) -> None:
    """Writes the whole pipelines `names`, and says how near their transformers are."""
    model, out = source_model(options), Path(options.out)
    for name in names:
        loras, base = loras_of(options), base_of(options)
        path = write_pipeline(name, model, Path(options.source), out, base=base, loras=loras)
        table = check(path / "transformer", model, beside=path)
        log.info("%s: %s", name, summary(path, table))
        print(path)


def base_of(options: argparse.Namespace) -> Path | None:
    """The folder of --base, if it was given."""
    return base_folder(options.base)


def of(format_name: str) -> tuple[str, ...]:
    """The networks that a format is made of."""
    if format_name in T5_FORMATS:
        return ("t5",)
    return ("transformer", *COMPANIONS) if format_name in PIPELINES else ("transformer",)


def loras_of(options: argparse.Namespace) -> list[Lora]:
    """The LoRA files of --lora."""
    return open_loras(options.lora)


def source_model(options: argparse.Namespace) -> Model:
    """The transformer of --source, its position table cropped where that is asked for."""
    model = open_model(
        Path(options.source),
        base=base_of(options),
        title=options.title,
        loras=loras_of(options),
    )
    if not options.position:
        return model
    tensors = cropped_position(model.tensors, options.position)
    return Model(tensors, mmdit_sizes(tensors), model.title, model.sample_size)


def write_transformer(options: argparse.Namespace, names: list[str]) -> None:
    """Writes the formats `names` of the transformer, and what is asked to be said of them."""
    model, base = source_model(options), base_of(options)
    student, errors, captions = None, None, []
    if options.calibrate or options.measure or options.report:
        student = open_student(
            Path(options.source), base=base, steps=options.steps, loras=loras_of(options)
        )
        captions = captions_of(options)
    if captions and student:
        compared = captions[:MEASURED] if options.report else captions
        errors = velocity_errors(*student.way(compared, seed=options.seed + 1))
    written = []
    for name, weights, known in variants(options, names, model, student):
        path = write_format(name, weights, Path(options.out), known)
        written.append(Written(path, describe(name, path, model, errors)))
        print(path)
    if options.report and student:
        path = Path(options.out) / "report.html"
        write_report(
            path,
            student,
            written,
            unseen_scenes(options.samples, seed=options.seed + 1),
            captions=captions,
            source_bytes=model.tensors.nbytes,
            measured=len(compared),
            seed=options.seed,
        )
        print(path)


def check_options(options: argparse.Namespace) -> list[str]:
    """The formats that are asked for. InputError for flags that do not go together."""
    if not (options.source and options.out and options.format):
        raise InputError("give --source, --out and --format, or --memory alone")
    names = options.format.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InputError(f"--format {unknown[0]} is unknown: choose of {', '.join(NAMES)}")
    cropped = ["--position"] if options.position else []
    cropped += [name for name in names if name in EXCHANGES and EXCHANGES[name].sized]
    if cropped and (options.measure or options.report):
        raise InputError(f"--measure and --report compare with the whole table: no {cropped[0]}")
    for flag, users in NEEDED.items():
        given = bool(getattr(options, flag))
        for name in names:
            if name in users and not given:
                raise InputError(f"--format {name} needs --{flag}")
        if given and not set(users).intersection(names):
            raise InputError(f"--{flag} is for --format {' or '.join(users)}")
    if options.report and options.samples < 2:
        raise InputError(f"--samples {options.samples}: give two or more")
    return names


def captions_of(options: argparse.Namespace) -> list[str]:
    """What the formats are measured on: a file's prompts, or unseen scenes, other noise too."""
    if options.measure:
        return read_prompts(options.measure)
    return unseen_scenes(options.samples, seed=options.seed + 1).captions if options.report else []


def describe(
    name: str, path: Path, model: Model, errors: Callable[[Params], list[float]] | None
) -> Format:
    """What a format costs; the fidelity of every tensor is written beside it."""
    table = check(path, model)
    log.info("%s: %s", name, summary(path, table))
    ratios = errors(read_format(path, model.config)) if errors else []
    if ratios:
        steps = " ".join(f"{ratio:.1f}" for ratio in ratios)
        log.info("%s: output %.1f dB, by step %s", name, mean_decibels(ratios), steps)
    inexact = {tensor: ratio for tensor, ratio in table.items() if math.isfinite(ratio)}
    output = mean_decibels(ratios) if ratios else math.nan
    return Format(name, size_of(path), output, ratios, inexact)


def open_model(
    source: Path, *, base: Path | None = None, title: str = "", loras: Sequence[Lora] = ()
) -> Model:
    """The transformer of any checkpoint with LoRAs added, read tensor by tensor where it is a file.

    InputError unless names and shapes are exactly a transformer's: nothing is written of another.
    """
    size = folders.settings(base)["sample_size"] if base else 128
    kind, known = kind_of(source), folders.read_configs(base) if base else {}
    found = open_transformer(source, known=known)
    if kind in ("pipeline", "transformer"):
        folder = source / "transformer" if kind == "pipeline" else source
        size = int(read_json(folder / "config.json").get("sample_size") or size)
    tensors = merged("transformer", found.under_sai_names(), loras, config=found.config)
    return Model(tensors, found.config, title, size)


def check(path: Path, model: Model, *, beside: Path | None = None) -> Mapping[str, float]:
    """Reads a format back, and writes fidelity (in GGUF: type, too) of every tensor beside it.

    `beside` is what the table lies next to where that is not `path`.
    """
    table = fidelity(model.tensors, open_format(path, model.config))
    rows: dict[str, Any] = {
        name: {"snr_db": ratio if math.isfinite(ratio) else None} for name, ratio in table.items()
    }
    if path.suffix == ".gguf":
        for name, entry in read_gguf(path).tensors.items():
            rows[name]["type"] = entry.codec.name
    beside = beside or path
    write_json(beside.with_name(beside.name + ".json"), rows)
    return table


def summary(path: Path, table: Mapping[str, float]) -> str:
    """Size and fidelity in a line."""
    worst = min(table, key=lambda name: table[name])
    return f"{size_of(path):,} bytes, every tensor at {table[worst]:.1f} dB or better ({worst})"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
