"""The report on formats: bars that cannot hide, and a page that says what it was given."""

import math

import numpy as np
import pytest

from flashjax.evaluate.judge import Figure, Measured
from flashjax.evaluate.report import Sampler
from flashjax.tools.quantize.page import (
    Format,
    QuantizeReport,
    chart,
    quantize_bars,
    render,
)

HOSTILE = "<b>'&"


def measured(whole: float) -> Measured:
    figures = (
        Figure("whole", 100 * whole, "%", decimals=1, heading="Alignment"),
        Figure("distance", 1.0, better="less"),
    )
    return Measured(figures, 500, steps=4, passes=4, seconds_per_image=0.01)


def formats(calibrated: float = 38.6) -> list[Format]:
    six = {"a.weight": 35.0, "b.weight": 33.0}
    return [
        Format("gguf-q8_0", 800, 47.0, (48.0, 46.0), {name: db + 10 for name, db in six.items()}),
        Format("gguf-q6_k", 600, 37.0, (38.0, 36.0), six),
        Format("gguf-q6_k-calibrated", 600, calibrated, (39.0, 38.0), six),
        Format("gguf-f16", 1000, math.inf, (math.inf, math.inf), {}),
    ]


@pytest.mark.parametrize(
    ("whole", "calibrated", "met"),
    [
        ({"gguf-q8_0": 0.804, "gguf-q6_k": 0.791}, 38.6, [True, True, True]),
        ({"gguf-q8_0": 0.806, "gguf-q6_k": 0.811}, 38.4, [False, False, False]),
        ({"gguf-q8_0": 0.794, "gguf-q6_k": 0.789}, 38.6, [False, False, True]),
    ],
)
def test_bars_count_differences_both_ways(whole, calibrated, met) -> None:
    rows = {name: measured(share) for name, share in whole.items()}
    bars = quantize_bars(measured(0.8), rows, formats(calibrated))
    assert [bar.met for bar in bars] == met


def test_no_bar_without_its_format() -> None:
    assert quantize_bars(measured(0.8), {}, formats()[:1]) == []


def report(text: str = "plain", *, judged: bool = True) -> QuantizeReport:
    found = formats()
    pictures = np.random.default_rng(0).integers(0, 255, (1, 4, 4, 3), np.uint8)
    known = measured(0.8) if judged else Measured((), 500, seconds_per_image=0.01)
    names = ("source", *(format.name for format in found))
    rows = [Sampler(name, text, text, pictures, known) for name in names]
    bars = quantize_bars(measured(0.8), {"gguf-q8_0": measured(0.7)}, found[:1])
    return QuantizeReport(
        title=text,
        summary=text,
        bars=bars if judged else (),
        captions=[text],
        samplers=rows,
        reference="source",
        notes=["Shares are counted."] if judged else [],
        formats=found,
        half_bytes=1000,
        measured=64,
        command=text,
        versions={"jax": text},
        seed=3,
        hardware=text,
    )


def test_a_bar_that_is_missed_is_said_first_and_every_figure_is_there() -> None:
    page = render(report())
    assert "0 of 1 bars are met. Not met: Alignment of gguf-q8_0 from that of the source" in page
    for text in (
        "80.0 %",
        "37.0",
        "b.weight",
        "43.0 dB",
        "exact",
        "distance",
        "Shares are counted.",
        "10.0",
    ):
        assert text in page
    assert page.count('class="dot"') == 6
    assert page.count("data:image/png") == 5


def test_pictures_that_nobody_reads_are_shown_without_figures() -> None:
    page = render(report(judged=False))
    assert "distance" not in page and "bars are met" not in page
    assert page.count("data:image/png") == 5 and "37.0" in page


def test_texts_are_escaped_and_nothing_comes_from_outside() -> None:
    page = render(report(HOSTILE))
    assert HOSTILE not in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_more_decibels_are_further_right() -> None:
    eight, six, _, none = chart(formats()).rows
    assert eight.points[0][0] > six.points[0][0] > six.points[1][0]
    assert not none.points
