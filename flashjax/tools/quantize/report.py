"""`quantize --report`: the formats just written, drawn, read and measured side by side."""

import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flashjax.evaluate.judge import Figure, Measured, figures_of, told
from flashjax.evaluate.report import Sampler, write_page
from flashjax.evaluate.sample import Sampler as Grid
from flashjax.evaluate.sample import draw, make_sample
from flashjax.quantize.formats import read_format
from flashjax.stages.stage import versions
from flashjax.tools.quantize import page as pages
from flashjax.tools.quantize.student import CHUNK, Judging, Student
from flashjax.types import Params

SHOWN = 7  # pictures of each format
REFERENCE = "source"

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
    judging: Judging,
    *,
    half_bytes: int,
    measured: int,
    seed: int,
) -> None:
    """Draws the captions with the source and every format from the same noise, and writes a page.

    The source's transformer is drawn as it is stored, and would take `half_bytes` at 16 bits.
    Pictures of a task's own size and words are judged, and set beside real ones; others are shown.
    """
    captions, judges, unseen = judging.captions, judging.judges, judging.unseen
    measure = partial(figures_of, judges)
    rows = list(draw_rows(student, written, captions, measure, half_bytes=half_bytes, seed=seed))
    found = {row.name: row.measured for row in rows}
    if unseen is not None and unseen.images is not None and captions == unseen.captions:
        real = Measured(measure(unseen.images, captions), len(captions))
        rows.insert(0, Sampler("real pictures", "unseen", "Reference", unseen.images[:SHOWN], real))
    formats = [item.format for item in written]
    report = pages.QuantizeReport(
        title="One student, fewer bits",
        summary=_summary(formats, half_bytes, len(captions)),
        bars=pages.quantize_bars(found[REFERENCE], found, formats) if judges else (),
        captions=captions[:SHOWN],
        samplers=rows,
        reference=REFERENCE,
        notes=[judge.note for judge in judges],
        formats=formats,
        half_bytes=half_bytes,
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
    measure: Callable[[np.ndarray, list[str]], tuple[Figure, ...]],
    *,
    half_bytes: int,
    seed: int,
) -> Iterator[Sampler]:
    """The source and every format, each with its pictures of all captions from the same noise."""
    program = make_sample(student.pipeline, Grid(student.sigmas))
    tokens, empty = student.tokenizer(captions), student.tokenizer([""])
    noise, steps = student.noise(seed, len(captions)), len(student.sigmas) - 1
    frozen = {"vae": student.pipeline.vae, "text": student.pipeline.text}

    def row(name: str, group: str, size: str, transformer: Params) -> Sampler:
        params = frozen | {"transformer": transformer}
        drawn = draw(program, params, tokens, empty, noise, chunk=CHUNK)
        figures = measure(drawn.images, captions)
        known = Measured(figures, len(captions), steps, steps, drawn.seconds_per_image)
        log.info("%s: %s", name, told(figures))
        return Sampler(name, size, group, drawn.images[:SHOWN], known)

    size = f"{half_bytes / 1e6:.2f} MB at 16 bits"
    yield row(REFERENCE, "Reference", size, student.pipeline.transformer)
    for item in written:
        params = read_format(item.path, student.pipeline.transformer_config)
        yield row(item.format.name, "Formats", f"{item.format.size_bytes / 1e6:.2f} MB", params)


def _summary(formats: Sequence[pages.Format], half_bytes: int, count: int) -> str:
    smallest = min(formats, key=lambda found: found.size_bytes)
    nearest = max(formats, key=lambda found: found.output_db)
    return (
        f"{count} captions, drawn from the same noise with the source, whose transformer takes "
        f"{half_bytes / 1e6:.2f} MB at 16 bits, and in {len(formats)} formats. "
        f"{nearest.name} is nearest to it, {smallest.name} smallest, with "
        f"{100 * smallest.size_bytes / half_bytes:.0f} % of these bytes."
    )
