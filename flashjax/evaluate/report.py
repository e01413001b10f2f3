"""The report of a run: one HTML file with its pictures, figures and curves, and nothing beside it.

What is said stands here; how it looks stands in assets/report.html.j2.
"""

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import jinja2
import numpy as np
from PIL import Image

from flashjax.convert.writing import replacing
from flashjax.evaluate.bars import TIMES, Bar, verdict
from flashjax.evaluate.grids import png_bytes
from flashjax.evaluate.judge import Figure, Measured

Record: TypeAlias = Mapping[str, Any]  # a line of metrics.jsonl: "step" and "network/quantity"

SHOWN_SIDE = 256  # pixels that a picture has at most in a table
NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Sampler:
    """A row of the report: its name, a note on its settings, its pictures uint8 "n h w 3".

    Neighbours of the same `group` stand under one heading.
    """

    name: str
    note: str
    group: str
    images: np.ndarray
    measured: Measured


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
class Report:
    """All that the report says.

    Every sampler has one picture for each caption, and the figures of the same judges, which
    `notes` explain. Speeds are compared with the sampler named `reference`, sizes with the first of
    `files`. `config` is text, shown as it is; `seed` is that of the pictures' noise.
    """

    title: str
    summary: str
    bars: Sequence[Bar]
    captions: Sequence[str]
    samplers: Sequence[Sampler]
    reference: str
    notes: Sequence[str]
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


def write_report(path: Path | str, report: Report) -> None:
    """Write the report to `path` as one HTML file, whole or not at all."""
    write_page(Path(path), render(report))


def write_page(path: Path, page: str) -> None:
    """Write a page of HTML, whole or not at all."""
    with replacing(path) as new:
        new.write_text(page, encoding="utf-8")


def render(report: Report) -> str:
    """The page, all texts escaped."""
    template = environment().get_template("report.html.j2")
    columns = columns_of(report.samplers)
    return template.render(
        report=report,
        verdict=verdict(report.bars),
        headings=headings(columns),
        columns=columns,
        groups=grouped(report.samplers),
        reference=next(s.measured for s in report.samplers if s.name == report.reference),
        stages=[(curves, panels(curves.runs)) for curves in report.curves],
    )


def grouped(samplers: Sequence[Sampler]) -> list[tuple[str, list[Sampler]]]:
    """Neighbours of the same group under its heading."""
    groups = itertools.groupby(samplers, key=lambda sampler: sampler.group)
    return [(group, list(members)) for group, members in groups]


def columns_of(samplers: Sequence[Sampler]) -> list[Figure]:
    """One figure of each kind that any sampler has: those of the one with the most come first."""
    by_number = sorted(samplers, key=lambda sampler: len(sampler.measured.figures), reverse=True)
    figures = (figure for sampler in by_number for figure in sampler.measured.figures)
    found: dict[tuple[str, str], Figure] = {}
    for figure in figures:
        found.setdefault((figure.heading, figure.name), figure)
    return list(found.values())


def under(figures: Sequence[Figure], columns: Sequence[Figure]) -> list[Figure | None]:
    """The figures in the order of the columns; None where there is none."""
    known = {(figure.heading, figure.name): figure for figure in figures}
    return [known.get((column.heading, column.name)) for column in columns]


def scale_of(images: np.ndarray) -> int:
    """How pictures "n h w 3" are shown: 2 at twice their size, 1 as they are, 0 reduced."""
    return min(2, SHOWN_SIDE // max(images.shape[1:3]))


def reduced(images: np.ndarray) -> list[np.ndarray]:
    """Pictures "n h w 3"; those that are too large for a table are made smaller."""
    found = [Image.fromarray(image) for image in images]
    for picture in found:
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return [np.asarray(picture) for picture in found]


@dataclass(frozen=True)
class Heading:
    """A heading of the table of figures, and how many columns stand under it."""

    text: str
    columns: int


def headings(figures: Sequence[Figure]) -> list[Heading]:
    """Neighbours of one heading under it, with their unit."""
    groups = itertools.groupby(figures, key=lambda figure: (figure.heading, figure.unit))
    return [
        Heading(f"{text}, {unit}" if text and unit else text, len(list(members)))
        for (text, unit), members in groups
    ]


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
ASIDE = ("time/", "speed/", "memory/", "goodput/")  # metrics of the machine, not of the method
LOG_SPREAD = 100  # metrics that span a larger ratio are drawn on a logarithmic axis


def panels(runs: Mapping[str, Sequence[Record]]) -> tuple[Panel, ...]:
    """A panel for every metric of the runs, in order of appearance, but for those ASIDE."""
    records = [record for run in runs.values() for record in run if "step" in record]
    names = dict.fromkeys(
        name
        for record in records
        for name, value in record.items()
        if name != "step" and not name.startswith(ASIDE) and _is_number(value)
    )
    return tuple(_panel(name, runs) for name in names)


def _is_number(value: Any) -> bool:
    """What a judge of somebody's own says may be none."""
    return isinstance(value, int | float) and math.isfinite(value)


def _panel(name: str, runs: Mapping[str, Sequence[Record]]) -> Panel:
    series = [
        [(r["step"], r[name]) for r in run if _is_number(r.get(name))] for run in runs.values()
    ]
    steps, values = zip(*itertools.chain(*series), strict=True)
    logarithmic = min(values) > 0 and max(values) > LOG_SPREAD * min(values)
    scale = math.log10 if logarithmic else float
    low, high = scale(min(values)), scale(max(values))
    if low == high:
        around = max(0.5, 1e-9 * abs(low))
        low, high = low - around, high + around
    first, final = min(steps), max(steps)

    def place(step: int, value: float) -> str:
        across = LEFT + (step - first) / max(final - first, 1) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{down(scale(value)):.1f}"

    def down(height: float) -> float:
        return TOP + (high - height) / (high - low) * (HEIGHT - TOP - BOTTOM)

    heights = round_numbers(low, high, least=1.0 if logarithmic else 0.0)
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
        ),
        steps=(first, final),
    )


def round_numbers(low: float, high: float, *, least: float = 0.0, most: int = 5) -> list[float]:
    """At most so many numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart."""
    decade = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = (max(least, factor * decade) for factor in (1, 2, 5, 10, 20))
    for step in steps:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


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
        "figure": _figure,
        "amount": _amount,
        "duration": _duration,
        "megabytes": _megabytes,
        "data_uri": _data_uri,
        "reduced": reduced,
        "scale": scale_of,
        "under": under,
        "certain": _certain,
    }
    environment.globals |= {
        "zip": zip,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
    }
    return environment


def _figure(figure: Figure, value: float) -> str:
    """A value as the figure shows its own."""
    return f"{value:.{figure.decimals}f}"


def _certain(value: float, error: float) -> str:
    """A value in as many digits as its error leaves it."""
    if not error:
        return f"{value:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # and never -0


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
