"""`quantize --report`: the formats just written, drawn, read and measured side by side."""

import json
import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from flashjax.evaluate.report import Figures, Reader, Sampler, write_page
from flashjax.evaluate.sample import Sampler as Grid
from flashjax.evaluate.sample import draw, make_sample
from flashjax.quantize.formats import read_format
from flashjax.stages.evaluate import measure
from flashjax.stages.model import packaged
from flashjax.stages.stage import versions
from flashjax.tasks.digit_scenes.reading import CARD, load_reader, reader_features, to_model
from flashjax.tasks.digit_scenes.scenes import SIDE
from flashjax.tools.quantize import page as pages
from flashjax.tools.quantize.student import Scenes, Student
from flashjax.types import Params

CHUNK, SHOWN = 50, 7  # pictures drawn at a time; pictures shown of each format
REFERENCE = "16 bits"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A format that was written: where, and what is known of it."""

    path: Path
    format: pages.Format


def write_report(
    path: Path,
    student: Student,
    written: Sequence[Written],
    scenes: Scenes,
    *,
    captions: list[str],
    source_bytes: int,
    measured: int,
    seed: int,
) -> None:
    """Draws the captions with the source and every format from the same noise, and writes a page.

    Pictures of nano's size are read, and set beside real scenes; others are only shown.
    """
    readable = student.pipeline.sample_size * student.pipeline.vae_config.factor == SIDE
    folder = packaged("nano") / "reader"
    figures_of = partial(_read, folder, scenes.others) if readable else _unread
    rows = list(
        draw_rows(student, written, captions, figures_of, source_bytes=source_bytes, seed=seed)
    )
    figures = {row.name: row.figures for row in rows}
    if readable and captions == scenes.captions:
        real = figures_of(scenes.images, captions)
        rows.insert(0, Sampler("real scenes", "unseen", "Reference", scenes.images[:SHOWN], real))
    formats = [item.format for item in written]
    report = pages.QuantizeReport(
        title="One student, fewer bits",
        summary=_summary(formats, source_bytes, len(captions)),
        bars=pages.quantize_bars(figures[REFERENCE], figures, formats) if readable else (),
        captions=captions[:SHOWN],
        samplers=rows,
        reference=REFERENCE,
        reader=_card(folder) if readable else None,
        formats=formats,
        source_bytes=source_bytes,
        measured=measured,
        command=shlex.join(["flashjax", *sys.argv[1:]]),
        versions=versions(),
        seed=seed,
        hardware=f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}",
    )
    write_page(path, pages.render(report))


def draw_rows(
    student: Student,
    written: Sequence[Written],
    captions: list[str],
    figures_of: Callable[[np.ndarray, list[str]], Figures],
    *,
    source_bytes: int,
    seed: int,
) -> Iterator[Sampler]:
    """The source and every format, each with its pictures of all captions from the same noise."""
    program = make_sample(student.pipeline, Grid(student.sigmas))
    tokens, empty = student.tokenizer(captions), student.tokenizer([""])
    noise, steps = student.noise(seed, len(captions)), len(student.sigmas) - 1
    frozen = {"vae": student.pipeline.vae, "text": student.pipeline.text}

    def row(name: str, group: str, size_bytes: int, transformer: Params) -> Sampler:
        params = frozen | {"transformer": transformer}
        drawn = draw(program, params, tokens, empty, noise, chunk=CHUNK)
        figures = replace(
            figures_of(drawn.images, captions),
            steps=steps,
            passes=steps,
            seconds_per_image=drawn.seconds_per_image,
        )
        log.info("%s: %s", name, _figures_line(figures))
        return Sampler(name, f"{size_bytes / 1e6:.2f} MB", group, drawn.images[:SHOWN], figures)

    yield row(REFERENCE, "Reference", source_bytes, student.pipeline.transformer)
    for item in written:
        params = read_format(item.path, student.pipeline.transformer_config)
        yield row(item.format.name, "Formats", item.format.size_bytes, params)


def _figures_line(figures: Figures) -> str:
    whole = figures.alignment.get("whole", float("nan"))
    return f"aligned {100 * whole:.1f} %, Fréchet {figures.frechet:.2f}"


def _read(
    reader_folder: Path, real: np.ndarray, images: np.ndarray, captions: list[str]
) -> Figures:
    """What the reader finds in pictures, and how far they are from real ones."""
    reader = load_reader(reader_folder)
    return Figures(**measure(reader, reader_features(reader, to_model(real)), images, captions))


def _unread(images: np.ndarray, captions: list[str]) -> Figures:
    """Figures of pictures that nobody can read."""
    del captions
    return Figures({}, float("nan"), len(images))


def _card(folder: Path) -> Reader:
    card = json.loads((folder / CARD).read_text())
    return Reader(accuracy=card["accuracy"], samples=card["validation_scenes"])


def _summary(formats: Sequence[pages.Format], source_bytes: int, count: int) -> str:
    smallest = min(formats, key=lambda found: found.size_bytes)
    nearest = max(formats, key=lambda found: found.output_db)
    return (
        f"{count} captions, drawn from the same noise with a transformer of "
        f"{source_bytes / 1e6:.2f} MB at 16 bits and in {len(formats)} formats of fewer. "
        f"{nearest.name} is nearest to it, {smallest.name} smallest, with "
        f"{100 * smallest.size_bytes / source_bytes:.0f} % of its bytes."
    )
