"""`evaluate --source A,B`: any checkpoints side by side on the same prompts and noise, judged."""

import argparse
import copy
import dataclasses
import functools
import hashlib
import json
import logging
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from flashjax.convert.outputs import check_free, keep_record
from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.prompts import read_prompts, shortened
from flashjax.evaluate import report
from flashjax.evaluate.judge import Compared, Judge, Measured, figures_of, told
from flashjax.evaluate.sample import Drawn, Sampler
from flashjax.evaluate.unseen import pictures_of
from flashjax.models.mmdit import MMDiT
from flashjax.parallel.mesh import make_mesh
from flashjax.stages.contents import files_below
from flashjax.stages.drawing import Studio, draw_all, forget
from flashjax.stages.model import PACKAGED
from flashjax.stages.registry import check_judges, open_judges
from flashjax.stages.stage import versions
from flashjax.tools.axes import sources_of
from flashjax.tools.drawing import (
    GRIDS,
    Drawing,
    check_negative,
    latent_size,
    open_source,
    path_of,
    sampler_of,
)
from flashjax.tools.sheets import SETTINGS
from flashjax.types import InputError

EACH = {"steps": int, "guidance_scale": float, "grid": str}  # one value, or one of each source
PAGE, FEATURES, DRAWN = "report.html", "features", "drawn"

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Draws and judges every source, and prints the path of the report.

    What is drawn is kept until all is done: the same command goes on where it was interrupted.
    """
    prompts = [shortened(prompt) for prompt in read_prompts(options.prompts)]
    sources = sources_of(options.source, tuple(PACKAGED))
    cells = cells_of(options, list(sources))
    drawings = [Drawing.of(cell) for cell in cells.values()]
    for drawing in drawings:
        drawing.check(1)
    check_negative(drawings)
    if options.shown < 1:
        raise InputError(f"--shown {options.shown}: give one or more")
    out, paths = Path(options.out), [path_of(source) for source in sources.values()]
    names = [name for name in options.judges.split(",") if name]
    check_judges(names, key="--judges")
    check_free([out / PAGE], force=options.force, read=paths)
    opened = open_kind(options.real, Wording(several="none")) if options.real else None
    judges: list[Judge] = []
    rows: list[report.Sampler] = []
    places = []
    for label, source in sources.items():
        cell = cells[label]
        cell.size = cell.size or _size_of(rows)
        places.append(out / DRAWN / asked(cell, source, prompts))
        drawn, sampler = draw_source(cell, source, prompts, places[-1])
        if not rows:  # the first is whom others are compared with
            real = pictures_of(opened, drawn.images.shape[1:3]) if opened else None
            others = drawn.images if len(sources) > 1 else None
            compared = Compared(real, others, out / FEATURES)
            judges = open_judges(names, paths[0], compared, prompts, key="--judges")
        rows.append(row_of(label, sampler, drawn, judges, prompts))
    shown = [dataclasses.replace(row, images=row.images[: options.shown]) for row in rows]
    report.write_report(out / PAGE, page(options, shown, judges, prompts, paths))
    keep_record(out / PAGE)
    for place in dict.fromkeys(places):
        forget(place)
    print(out / PAGE)


def cells_of(options: argparse.Namespace, labels: Sequence[str]) -> dict[str, argparse.Namespace]:
    """The flags of every source, where one value is for all and several are one for each."""
    found = {label: copy.copy(options) for label in labels}
    for flag, kind in EACH.items():
        texts = getattr(options, flag).split(",")
        if len(texts) not in (1, len(labels)):
            raise InputError(f"--{flag} has {len(texts)} values: give one, or one for each source")
        values = [_value(flag, kind, text) for text in texts]
        for label, value in zip(labels, values * (len(labels) // len(values)), strict=True):
            setattr(found[label], flag, value)
    return found


def _value(flag: str, kind: type, text: str) -> Any:
    try:
        value = kind(text)
    except ValueError as error:
        raise InputError(f"--{flag} {text}: give a value of {kind.__name__}") from error
    if flag == "grid" and value not in GRIDS:
        raise InputError(f"--grid {text}: choose of {', '.join(GRIDS)}")
    return value


def draw_source(
    cell: argparse.Namespace, source: str, prompts: list[str], place: Path
) -> tuple[Drawn, Sampler]:
    """A source's pictures of all prompts; its weights go before the next one's come."""
    mesh = make_mesh({"data": -1})
    known = {name: getattr(cell, name) for name in ("base", "lora", "dtype", "absent_t5")}
    pipeline, tokenizer = open_source(source, **known)
    size = latent_size(cell.size, pipeline)
    sampler = sampler_of(Drawing.of(cell), pipeline, size)
    whole = NamedSharding(mesh, PartitionSpec())
    empty = tokenizer([shortened(cell.negative_prompt)])
    networks = {name: getattr(pipeline, name) for name in ("transformer", "vae", "text")}
    networks, empty = jax.device_put((networks, empty), whole)
    pipeline = dataclasses.replace(pipeline, **networks)
    model = MMDiT(pipeline.transformer_config)
    studio = Studio(mesh, dataclasses.replace(pipeline, transformer={}), empty, model, size)
    draw = functools.partial(studio.program(sampler), pipeline.transformer)
    tokens = tokenizer(prompts)
    chunk = studio.chunk(cell.batch, sampler, tokens)
    drawn = draw_all(studio, draw, tokens, place, seed=cell.seed, chunk=chunk)
    assert drawn is not None  # one process alone
    return drawn, sampler


def asked(cell: argparse.Namespace, source: str, prompts: list[str]) -> str:
    """A name for what is drawn: of all that pictures depend on, so that no other's are taken.

    Of files it is their sizes and times, not only of the folder that they are in.
    """
    loras = [Path(text) for lora in cell.lora for text in (lora, lora.rpartition(":")[0]) if text]
    files = [
        file
        for path in (path_of(source), Path(cell.base or source), *loras)
        for file in _files(path)
    ]
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    told = [stamps, prompts, *(getattr(cell, name) for name in (*SETTINGS, "seed", "batch"))]
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:16]


def row_of(
    label: str,
    sampler: Sampler,
    drawn: Drawn,
    judges: Sequence[Judge],
    prompts: list[str],
) -> report.Sampler:
    """A source's row, and a line of its figures."""
    measured = Measured(
        figures=figures_of(judges, drawn.images, prompts),
        samples=len(drawn.images),
        steps=sampler.steps,
        passes=sampler.passes,
        seconds_per_image=drawn.seconds_per_image,
    )
    log.info("%-32s %s  %.4f s/image", label, told(measured.figures), drawn.seconds_per_image)
    guided = f", guidance {sampler.guidance_scale:g}" if sampler.guidance_scale != 1 else ""
    note = f"{sampler.steps} steps{guided}"
    return report.Sampler(label, note, "Sources", drawn.images, measured)


def page(
    options: argparse.Namespace,
    rows: Sequence[report.Sampler],
    judges: Sequence[Judge],
    prompts: list[str],
    paths: Sequence[Path],
) -> report.Report:
    """The report that a run has, as far as files without one have it."""
    settings: dict[str, Any] = {k: v for k, v in vars(options).items() if v not in (None, "", [])}
    return report.Report(
        title=options.title,
        summary=(
            f"{len(rows)} checkpoint{'s' if len(rows) > 1 else ''}, each drawing the same "
            f"{len(prompts)} prompts from the same noise."
        ),
        bars=(),
        captions=prompts[: options.shown],
        samplers=rows,
        reference=rows[0].name,
        notes=[judge.note for judge in judges],
        curves=(),
        files=[
            report.FileSize(row.name, bytes_of(path)) for row, path in zip(rows, paths, strict=True)
        ],
        stage_seconds={},
        config=json.dumps(settings, indent=2),
        versions=versions(),
        seed=options.seed,
        hardware=f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}",
    )


def bytes_of(path: Path) -> int:
    """Of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> list[Path]:
    """A file, or all files of a folder."""
    if path.is_file():
        return [path]
    return [file for file in files_below(path, links=True) if file.is_file()]


def _size_of(rows: Sequence[report.Sampler]) -> str | None:
    """The size that the first source has drawn, as a flag says it: others draw the same."""
    return "x".join(str(side) for side in rows[0].images.shape[1:3]) if rows else None
