"""The report of a run: one HTML file with its pictures, figures and curves, and nothing beside it.

What is said stands here; how it looks stands in assets/report.html.j2.
"""

import base64
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jinja2
import numpy as np
from matplotlib.ticker import MaxNLocator

from flashjax.evaluate.grids import png_bytes

Record: TypeAlias = Mapping[str, Any]  # a line of metrics.jsonl: "step" and "network/quantity"

MARGIN_POINTS = 10.0  # a "wide margin": some four standard errors between two runs of 500 samples
NBSP = "\N{NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Bar:
    """A figure that was promised: `value` is to be at least, or at most, `target`, in `unit`."""

    name: str
    value: float
    target: float
    unit: str
    sense: Literal["at least", "at most"] = "at least"

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.target if self.sense == "at least" else self.value <= self.target


@dataclass(frozen=True)
class Figures:
    """What was measured on the samples of one sampler.

    `alignment` holds shares (0..1) for "whole" and each part of a caption; `passes` counts
    runs of the transformer for one image (two for each guided step). Real scenes have no steps and
    no times.
    """

    alignment: Mapping[str, float]
    frechet: float
    samples: int
    steps: int | None = None
    passes: int | None = None
    seconds_per_image: float | None = None

    @property
    def error(self) -> float:
        """One binomial standard error of the whole alignment, 0..1."""
        share = self.alignment["whole"]
        return math.sqrt(share * (1 - share) / self.samples)


@dataclass(frozen=True)
class Sampler:
    """A row of the report: its name, a note on its settings, its pictures uint8 "n h w 3".

    Neighbours of the same `group` stand under one heading.
    """

    name: str
    note: str
    group: str
    images: np.ndarray
    figures: Figures


@dataclass(frozen=True)
class Curves:
    """The metrics of one stage; `runs` are drawn over each other and named if there are several."""

    stage: str
    runs: Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class FileSize:
    """An exported file."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class Reader:
    """The reader's own accuracy on real scenes: shares (0..1) like those of Figures.alignment."""

    accuracy: Mapping[str, float]
    samples: int


@dataclass(frozen=True)
class Report:
    """All that the report says.

    Every sampler has one picture for each caption. Speeds are compared with the sampler named
    `reference`, sizes with the first of `files`. `config` is text, shown as it is.
    """

    title: str
    summary: str
    bars: Sequence[Bar]
    captions: Sequence[str]
    samplers: Sequence[Sampler]
    reference: str
    reader: Reader
    curves: Sequence[Curves]
    files: Sequence[FileSize]
    stage_seconds: Mapping[str, float]
    config: str
    versions: Mapping[str, str]
    seed: int
    hardware: str

    def __post_init__(self) -> None:
        for sampler in self.samplers:
            if len(sampler.images) != len(self.captions):
                raise ValueError(
                    f"report: {sampler.name!r} has {len(sampler.images)} pictures for "
                    f"{len(self.captions)} captions"
                )
        if self.reference not in [sampler.name for sampler in self.samplers]:
            raise ValueError(f"report: no sampler is called {self.reference!r}")


def demo_bars(
    *, teacher: Figures, cut: Figures, student: Figures, six_bit: Figures
) -> tuple[Bar, ...]:
    """The bars of the demo.

    `teacher` is guided in 50 steps, `cut` has as few steps as `student`, `six_bit` is the student's
    file. Teacher and student must be timed. Of a teacher that meets no caption nothing can be kept:
    that share is NaN, and its bar is not met.
    """
    whole, base, few, small = (
        100 * figures.alignment["whole"] for figures in (student, teacher, cut, six_bit)
    )
    if not teacher.seconds_per_image or not student.seconds_per_image:
        raise ValueError("demo_bars: the teacher and the student need seconds_per_image")
    faster = teacher.seconds_per_image / student.seconds_per_image
    kept = 100 * whole / base if base else math.nan
    return (
        Bar("Alignment kept from the teacher", kept, 90, "%"),
        Bar("Alignment above the teacher in as few steps", whole - few, MARGIN_POINTS, "points"),
        Bar("Alignment lost from 16 to 6 bits", whole - small, 2, "points", "at most"),
        Bar("Speed against the teacher", faster, 18, TIMES),
    )


def write_report(path: Path | str, report: Report) -> None:
    """Write the report to `path` as one HTML file, whole or not at all."""
    write_page(Path(path), render(report))


def write_page(path: Path, page: str) -> None:
    """Write a page of HTML, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, path)


def render(report: Report) -> str:
    """The page, all texts escaped."""
    template = environment().get_template("report.html.j2")
    return template.render(
        report=report,
        verdict=verdict(report.bars),
        attributes=attributes(report.samplers),
        groups=grouped(report.samplers),
        reference=next(s.figures for s in report.samplers if s.name == report.reference),
        stages=[(curves, panels(curves.runs)) for curves in report.curves],
    )


def grouped(samplers: Sequence[Sampler]) -> list[tuple[str, list[Sampler]]]:
    """Neighbours of the same group under its heading."""
    groups = itertools.groupby(samplers, key=lambda sampler: sampler.group)
    return [(group, list(members)) for group, members in groups]


def attributes(samplers: Sequence[Sampler]) -> list[str]:
    """The parts of a caption that alignment was measured of, beside the whole."""
    return [name for name in samplers[0].figures.alignment if name != "whole"]


def verdict(bars: Sequence[Bar]) -> str:
    """How many bars are met, and by name those that are not, as one sentence."""
    missed = [bar.name for bar in bars if not bar.met]
    if not missed:
        return f"All {len(bars)} bars are met."
    return f"{len(bars) - len(missed)} of {len(bars)} bars are met. Not met: {'; '.join(missed)}."


@dataclass(frozen=True)
class Tick:
    """A labelled height on the y axis of a panel, in SVG units from the top."""

    y: float
    label: str


@dataclass(frozen=True)
class Line:
    """One run in a panel: its number among the runs from 1, its SVG path, its last value."""

    run: int
    path: str
    last: float


@dataclass(frozen=True)
class Panel:
    """One metric, drawn in a viewBox of WIDTH x HEIGHT; `steps` are the first and the last."""

    name: str
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    steps: tuple[int, int]


WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 42, 4, 8, 20  # margins of the plot within the viewBox
LOG_SPREAD = 100  # metrics that span a larger ratio are drawn on a logarithmic axis


def panels(runs: Mapping[str, Sequence[Record]]) -> tuple[Panel, ...]:
    """A panel for every metric of the runs, in order of appearance; "time/..." is left out."""
    records = [record for run in runs.values() for record in run if "step" in record]
    names = dict.fromkeys(
        name
        for record in records
        for name, value in record.items()
        if name != "step" and not name.startswith("time/") and isinstance(value, int | float)
    )
    return tuple(_panel(name, runs) for name in names)


def _panel(name: str, runs: Mapping[str, Sequence[Record]]) -> Panel:
    series = [[(r["step"], r[name]) for r in run if name in r] for run in runs.values()]
    steps, values = zip(*itertools.chain(*series), strict=True)
    logarithmic = min(values) > 0 and max(values) > LOG_SPREAD * min(values)
    scale = math.log10 if logarithmic else float
    low, high = scale(min(values)), scale(max(values))
    if low == high:
        low, high = low - 0.5, high + 0.5
    first, final = min(steps), max(steps)

    def place(step: int, value: float) -> str:
        across = LEFT + (step - first) / max(final - first, 1) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{down(scale(value)):.1f}"

    def down(height: float) -> float:
        return TOP + (high - height) / (high - low) * (HEIGHT - TOP - BOTTOM)

    heights = MaxNLocator(4, steps=(1, 2, 5, 10), integer=logarithmic).tick_values(low, high)
    return Panel(
        name=name,
        lines=tuple(
            Line(run, "M" + "L".join(place(*point) for point in points), points[-1][1])
            for run, points in enumerate(series, start=1)
            if points
        ),
        ticks=tuple(
            Tick(round(down(height), 1), f"{10.0**height if logarithmic else height:g}")
            for height in heights
            if low <= height <= high
        ),
        steps=(first, final),
    )


def environment() -> jinja2.Environment:
    """The packaged templates, with the filters and names that they use."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flashjax", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "amount": _amount,
        "duration": _duration,
        "megabytes": _megabytes,
        "data_uri": _data_uri,
    }
    environment.globals |= {
        "zip": zip,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
    }
    return environment


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _amount(value: float, unit: str) -> str:
    return f"{value:.3g}{'' if unit == TIMES else NBSP}{unit}"


def _duration(seconds: float) -> str:
    """A time that a person reads at a glance: 1.3 s, 48.0 s, 6 min 05 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds:.1f}{NBSP}s"
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f}{NBSP}MB"


def _data_uri(image: np.ndarray, **text: str) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(image, text=text)).decode()
