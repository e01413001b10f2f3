"""The report on a model in several formats: what each costs in size, and in what it draws.

How it looks stands in assets/quantize_report.html.j2, which fills the frame of report.html.j2.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from flashjax.evaluate.bars import AT_MOST, Bar, verdict
from flashjax.evaluate.judge import Measured
from flashjax.evaluate.report import Sampler, environment, grouped, headings

SIX_BITS = ("gguf-q6_k", "gguf-q6_k-calibrated", "gguf-q6_k-tuned", "mlx-6")
POINTS = {"gguf-q8_0": 0.5, **dict.fromkeys(SIX_BITS, 1.0)}
CALIBRATION_DECIBELS = 1.5
WIDTH, ROW, LEFT = 720, 22, 170  # of the chart of tensors, in SVG units


@dataclass(frozen=True)
class Format:
    """One format: its name, bytes, and what it does to the model.

    `output_db` is the ratio of the source's velocity to the error, over all steps of the student;
    `step_db` the same at each step. `tensors` has the ratio of each tensor that is not exact.
    """

    name: str
    size_bytes: int
    output_db: float
    step_db: Sequence[float]
    tensors: Mapping[str, float]

    @property
    def worst(self) -> str | None:
        """The name of the tensor that is stored worst; None if all are exact."""
        return min(self.tensors, key=lambda name: self.tensors[name], default=None)

    @property
    def median_db(self) -> float:
        """Of the tensors; infinite if all are exact."""
        return median(self.tensors.values()) if self.tensors else math.inf


@dataclass(frozen=True)
class QuantizeReport:
    """All that the report says.

    `reference` names the sampler of the source as it is, which every format has a sampler beside.
    Without a judge the samplers have no figures, and there are no `notes` on them.
    """

    title: str
    summary: str
    bars: Sequence[Bar]
    captions: Sequence[str]
    samplers: Sequence[Sampler]
    reference: str
    notes: Sequence[str]
    formats: Sequence[Format]
    half_bytes: int  # of the source's transformer, were it in 16 bits
    measured: int  # captions whose velocities were compared
    command: str
    versions: Mapping[str, str]
    seed: int
    hardware: str


def quantize_bars(
    reference: Measured, measured: Mapping[str, Measured], formats: Sequence[Format]
) -> list[Bar]:
    """The bars of those formats that are there: beside the source, and calibrated beside plain.

    They are of the first judge's first figure, if that is in percent. Differences count both ways:
    a format that draws better than its source is not faithful either.
    """
    bars = []
    if reference.figures and reference.figures[0].unit == "%":
        whole = reference.figures[0]
        bars = [
            Bar(
                f"{whole.title} of {name} from that of the source",
                abs(measured[name].figures[0].value - whole.value),
                points,
                "points",
                AT_MOST,
            )
            for name, points in POINTS.items()
            if name in measured
        ]
    output = {found.name: found.output_db for found in formats}
    if {"gguf-q6_k", "gguf-q6_k-calibrated"} <= output.keys():
        gain = output["gguf-q6_k-calibrated"] - output["gguf-q6_k"]
        bars.append(Bar("Output gained by calibrating six bits", gain, CALIBRATION_DECIBELS, "dB"))
    return bars


@dataclass(frozen=True)
class Dots:
    """The tensors of one format on the chart: its height, and each tensor's place and words."""

    name: str
    y: int
    points: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Chart:
    """Tensors of all formats along one axis of decibels, in SVG units."""

    rows: tuple[Dots, ...]
    ticks: tuple[tuple[float, int], ...]
    height: int


def chart(formats: Sequence[Format]) -> Chart:
    """One row of dots for each format."""
    ratios = [ratio for found in formats for ratio in found.tensors.values()] or [0.0]
    low, high = 10 * int(min(ratios) // 10), 10 * int(-(-max(ratios) // 10))

    def across(ratio: float) -> float:
        return round(LEFT + (ratio - low) / max(high - low, 1) * (WIDTH - LEFT - 12), 1)

    rows = tuple(
        Dots(
            found.name,
            ROW * index + ROW // 2,
            tuple(
                (across(ratio), f"{name}: {ratio:.1f} dB") for name, ratio in found.tensors.items()
            ),
        )
        for index, found in enumerate(formats)
    )
    ticks = tuple((across(level), level) for level in range(low, high + 1, 10))
    return Chart(rows, ticks, ROW * len(formats) + 20)


def _untimed(measured: Measured) -> Measured:
    """Times stand with the formats: here they would be taken for those of a runtime."""
    return replace(measured, seconds_per_image=None)


def render(report: QuantizeReport) -> str:
    """The page, all texts escaped."""
    template = environment().get_template("quantize_report.html.j2")
    return template.render(
        report=report,
        decibels=lambda ratio: f"{ratio:.1f}" if math.isfinite(ratio) else "exact",
        verdict=verdict(report.bars),
        headings=headings(report.samplers[0].measured.figures),
        columns=report.samplers[0].measured.figures,
        groups=grouped([replace(s, measured=_untimed(s.measured)) for s in report.samplers]),
        reference=next(s.measured for s in report.samplers if s.name == report.reference),
        milliseconds={
            s.name: 1000 * s.measured.seconds_per_image
            for s in report.samplers
            if s.measured.seconds_per_image
        },
        chart=chart(report.formats),
        chart_width=WIDTH,
        tensors=sorted({name for found in report.formats for name in found.tensors}),
    )
