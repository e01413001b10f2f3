"""`quantize --source`: any checkpoint's transformer to the formats that runtimes deploy."""

import argparse
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashjax.convert import folder as folders
from flashjax.convert.adapters import Lora, check_used, merged, open_loras
from flashjax.convert.fields import say
from flashjax.convert.outputs import check_free, is_file_name, keep_record, places, write_as
from flashjax.convert.pipeline import as_stored, in_float32
from flashjax.convert.sizes import mmdit_sizes
from flashjax.convert.table import Placement
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import cropped_position
from flashjax.convert.writing import write_json
from flashjax.data.prompts import read_prompts
from flashjax.evaluate.sample import check_seed
from flashjax.quantize.calibrate import mean_decibels, velocity_errors
from flashjax.quantize.containers.gguf import is_gguf, read_gguf
from flashjax.quantize.containers.t5 import T5_FORMATS, read_back, write_t5
from flashjax.quantize.formats import (
    FORMATS,
    INFORMED,
    MIXED,
    SINGLE,
    TUNED,
    Model,
    fidelity,
    file_of,
    open_format,
    read_format,
    write_format,
)
from flashjax.quantize.graphs.exchange import EXCHANGES
from flashjax.quantize.graphs.pipelines import COMPANIONS, PIPELINES
from flashjax.quantize.memory import wider
from flashjax.quantize.ranges import check_ranges
from flashjax.sources import base_folder, open_transformer, sample_size_of
from flashjax.stages.contents import files_below
from flashjax.stages.model import drawn_size, in_run, read_model
from flashjax.tools.quantize.memory import print_table
from flashjax.tools.quantize.page import Format
from flashjax.tools.quantize.pipeline import write_pipeline
from flashjax.tools.quantize.report import Written, write_report
from flashjax.tools.quantize.student import open_judging, open_student
from flashjax.tools.quantize.text import open_t5
from flashjax.tools.quantize.variants import variants
from flashjax.types import InputError, Params, check_text, listed

NAMES = (*FORMATS, *T5_FORMATS, *PIPELINES)
REPORT = "report.html"
POOR = 12.0  # dB, below which a tensor is hardly what it was; four bits have about 20
MEASURED = 64  # of a report's captions: those whose velocities are compared

NEEDED = {"calibrate": INFORMED, "size_mb": (MIXED,), "tune": (TUNED,)}  # flag: formats
USED = NEEDED | {  # the same, where a flag is not needed but acts
    "measure": FORMATS,
    "report": FORMATS,
    "position": (*FORMATS, *PIPELINES),
    "title": tuple(SINGLE),
}
LEAST = {"steps": 1, "position": 1, "tune": 1, "size_mb": 0}
LARGEST = 1e9  # of the same: no file and no table is larger
TITLE = "quantized by flashjax"

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Writes every format with a table of its fidelity, and prints where."""
    if options.memory:
        return print_table(options.memory)
    for path in write(options):
        print(path)


def write(options: argparse.Namespace) -> Iterator[Path]:
    """Writes every format; gives the path of each, and of a report, as it is done."""
    paths = check_places(options, check_options(options))
    loras = loras_of(options)
    check_used(loras, sorted({network for name in paths for network in of(name)}))
    for name, path in paths.items():
        if name in T5_FORMATS:
            tensors, config = open_t5(Path(options.source))
            tensors = merged("t5", tensors, loras, config=config)
            write_as(path, functools.partial(write_t5, name, tensors, config))
            table = check(path, *read_back(path, tensors))
            log.info("%s: %s", name, summary(path, table))
            yield path
    if whole := {name: path for name, path in paths.items() if name in PIPELINES}:
        yield from write_pipelines(options, whole)
    if single := {name: path for name, path in paths.items() if name in FORMATS}:
        yield from write_transformer(options, single)


def check_places(options: argparse.Namespace, names: list[str]) -> dict[str, Path]:
    """Where each format goes. InputError where something is that is not ours to write over."""
    out = Path(options.out)
    if is_file_name(out) and (options.report or TUNED in names):
        kind = "--report" if options.report else f"--format {TUNED}"
        raise InputError(f"--out {out}: {kind} writes more than a file, name a folder")
    paths = dict(zip(names, places(out, [file_name(name) for name in names]), strict=True))
    written = [*paths.values(), *(table_of(path) for path in paths.values())]
    if options.report:
        written.append(out / REPORT)
    read = [Path(options.source), Path(options.base or options.source)]
    check_free(written, force=options.force, ours=False, read=read)
    return paths


def file_name(name: str) -> str:
    """How the file or folder of a format is called where nobody says it."""
    if name in T5_FORMATS:
        return T5_FORMATS[name][0]
    return name if name in PIPELINES else file_of(name)


def table_of(path: Path) -> Path:
    """The table of what became of every tensor, beside a file or folder."""
    return path.with_name(path.name + ".json")


def write_pipelines(options: argparse.Namespace, paths: Mapping[str, Path]) -> Iterator[Path]:
    """Writes whole pipelines, gives their paths, and says how near their transformers are."""
    model, source, loras = source_model(options), Path(options.source), loras_of(options)
    check_ranges(model.tensors, (PIPELINES[name] for name in paths))
    for name, path in paths.items():
        write = functools.partial(write_pipeline, name, model, source, loras=loras)
        write_as(path, functools.partial(write, base=base_of(options)))
        stored = open_format(path / "transformer", model.config)
        table = check(path, model.tensors, stored)
        log.info("%s: %s", name, summary(path, table))
        yield path


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
        title=options.title or TITLE,
        loras=loras_of(options),
    )
    if not options.position:
        return model
    if options.format.startswith("gguf") or ",gguf" in options.format:
        log.info("a GGUF with a cropped table: ComfyUI and diffusers read it, sd.cpp does not")
    tensors = cropped_position(model.tensors, options.position)
    sizes = mmdit_sizes(tensors, model.config)
    size = min(model.sample_size, sizes.patch * sizes.position_size)
    if size < model.sample_size:
        say(
            f"--position {options.position} spans pictures of {model.factor * size} pixels, the "
            f"model's own have {model.factor * model.sample_size}: the smaller are its own now"
        )
    return dataclasses.replace(model, tensors=tensors, config=sizes, sample_size=size)


def write_transformer(options: argparse.Namespace, paths: Mapping[str, Path]) -> Iterator[Path]:
    """Writes formats of the transformer, gives their paths, and says what is asked for."""
    model, base = source_model(options), base_of(options)
    check_ranges(model.tensors, paths)
    student, judging, errors = None, None, None
    if options.calibrate or options.measure or options.report:
        source, loras = Path(options.source), loras_of(options)

        def place(name: str) -> Placement:
            # Of a mixed format each leaf in turn takes values that 16 bits do not hold.
            wide = MIXED in paths and name == "transformer"
            return in_float32(name) if wide else as_stored(name)

        steps = options.steps
        student = open_student(source, base=base, steps=steps, loras=loras, place=place)
        captions = read_prompts(options.measure) if options.measure else []
        if options.report:
            file, samples = options.measure, options.samples
            judging = open_judging(student, file=file, samples=samples, seed=options.seed + 1)
            captions = judging.captions[:MEASURED]
        if captions:
            errors = velocity_errors(*student.way(captions, seed=options.seed + 1))
    written = []
    for name, weights, known in variants(options, list(paths), model, student):
        path = paths[name]
        write_as(path, functools.partial(write_format, name, weights, calibration=known))
        written.append(Written(path, describe(name, path, model, errors)))
        yield path
    if judging and student:
        path = Path(options.out) / REPORT
        write_report(
            path,
            student,
            written,
            judging,
            half_bytes=model.half_bytes,
            measured=len(captions),
            seed=options.seed,
        )
        keep_record(path)
        yield path


def check_options(options: argparse.Namespace) -> list[str]:
    """The formats that are asked for. InputError for flags that do not go together."""
    if not (options.source and options.out and options.format):
        raise InputError("give --source, --out and --format, or --memory alone")
    names = list(dict.fromkeys(name.strip() for name in options.format.split(",")))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InputError(f"--format {unknown[0]} is unknown: choose of {', '.join(NAMES)}")
    cropped = ["--position"] if options.position else []
    cropped += [name for name in names if name in EXCHANGES and EXCHANGES[name].sized]
    if cropped and (options.measure or options.report):
        raise InputError(f"--measure and --report compare with the whole table: no {cropped[0]}")
    for flag, users in USED.items():
        given, using = bool(getattr(options, flag)), [name for name in names if name in users]
        if using and flag in NEEDED and not given:
            raise InputError(f"--format {using[0]} needs --{flag}")
        if given and not using:
            raise InputError(f"--{flag} is for --format {listed(users)}")
    if options.report and options.samples < 2:
        raise InputError(f"--samples {options.samples}: give two or more")
    for flag, least in LEAST.items():
        value = getattr(options, flag)
        if value is not None and not least <= value < LARGEST:
            raise InputError(f"--{flag} {value}: give {least} or more, below {LARGEST:g}")
    check_seed(options.seed)
    check_text(options.title, "--title")
    for file in filter(None, (options.calibrate, options.measure)):
        read_prompts(file)
    return names


def describe(
    name: str, path: Path, model: Model, errors: Callable[[Params], list[float]] | None
) -> Format:
    """What a format costs; the fidelity of every tensor is written beside it."""
    table = check(path, model.tensors, open_format(path, model.config))
    log.info("%s: %s", name, summary(path, table))
    for kind, share in wider(model.config, name).items():
        said = "%s: %.0f %% of its weights are in %s, for their rows are no whole blocks of its own"
        log.warning(said, name, 100 * share, kind)
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
    run = read_model(source.parent) if base is None and in_run(source) else None
    known = {"transformer": run.transformer, "vae": run.vae} if run else {}
    found = open_transformer(source, known=folders.read_configs(base) if base else known)
    tensors = merged("transformer", found.under_sai_names(), loras, config=found.config)
    factor = found.vae.factor
    if run:
        size = drawn_size(source, run)
    else:
        size = sample_size_of(source, found.config, factor=factor, base=base)
    return Model(tensors, found.config, title, size, factor)


def check(path: Path, given: Tensors, stored: Tensors) -> Mapping[str, float]:
    """Writes the fidelity (in GGUF: type, too) of every tensor beside a file or folder.

    `stored` is what is read back of it.
    """
    table = fidelity(given, stored)
    poor = [name for name, ratio in table.items() if not ratio >= POOR]
    if poor:
        names = f"{poor[0]}" + (f" and {len(poor) - 1} more" if poor[1:] else "")
        log.warning("%s keeps little of %s: %.1f dB", path, names, table[poor[0]])
    rows: dict[str, Any] = {
        name: {"snr_db": ratio if math.isfinite(ratio) else None} for name, ratio in table.items()
    }
    if is_gguf(path):
        for name, entry in read_gguf(path).tensors.items():
            rows[name]["type"] = entry.codec.name
    write_json(table_of(path), rows)
    keep_record(table_of(path))
    return table


def summary(path: Path, table: Mapping[str, float]) -> str:
    """Size and fidelity in a line."""
    worst = min(table, key=lambda name: table[name])
    return f"{size_of(path):,} bytes, every tensor at {table[worst]:.1f} dB or better ({worst})"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = files_below(path, links=True) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
