"""Bars follow from the figures of judges, whichever way is better, and cannot hide a miss."""

import math

import numpy as np
import pytest

from flashjax.evaluate.bars import Bar, Targets, run_bars, verdict
from flashjax.evaluate.judge import Figure, Measured

TARGETS = Targets(kept=90.0, above=10.0, lost=2.0, faster=18.0)


def measured(value: float, *, unit: str = "%", better="more", seconds: float = 1.0) -> Measured:
    figure = Figure("whole", value, unit, better, heading="Alignment")
    return Measured((figure,), 400, seconds_per_image=seconds)


def test_a_bar_is_met_at_its_target():
    assert Bar("a", 18.0, 18.0, "x").met and not Bar("a", 17.9, 18.0, "x").met
    assert Bar("a", 2.0, 2.0, "x", "at most").met and not Bar("a", 2.1, 2.0, "x", "at most").met


def test_bars_follow_from_the_figures():
    bars = run_bars(
        TARGETS,
        teacher=measured(90.0),
        cut=measured(80.0),
        student=measured(85.0, seconds=0.05),
        fewest=measured(84.0),
    )
    np.testing.assert_allclose([bar.value for bar in bars], [100 * 0.85 / 0.9, 5, 1, 20])
    assert [bar.met for bar in bars] == [True, False, True, True]
    assert [bar.unit for bar in bars[:3]] == ["%", "points", "points"]
    assert verdict(bars).startswith("3 of 4 bars are met. Not met: Alignment above the teacher")
    assert verdict(bars[2:]) == "All 2 bars are met."


def test_of_a_distance_the_smaller_one_is_ahead():
    distance = {"unit": "", "better": "less"}
    bars = run_bars(
        Targets(kept=90.0, above=1.0, lost=0.5),
        teacher=measured(2.0, **distance),
        cut=measured(6.0, **distance),
        student=measured(4.0, **distance),
        fewest=measured(4.75, **distance),
    )
    np.testing.assert_allclose([bar.value for bar in bars], [50, 2, 0.75])
    assert [bar.met for bar in bars] == [False, True, False]


def test_nothing_is_kept_from_a_teacher_that_meets_no_caption():
    blank = measured(0.0)
    kept, *_ = run_bars(TARGETS, teacher=blank, cut=blank, student=blank, fewest=blank)
    assert math.isnan(kept.value) and not kept.met


@pytest.mark.parametrize(
    ("better", "teacher", "student", "kept"),
    [
        ("more", -0.5, -0.9, math.nan),  # as rewards are: the student is worse
        ("more", 0.5, -0.5, math.nan),
        ("less", -0.1, 4.0, math.nan),
        ("less", 2.0, 0.0, math.inf),  # as unbiased distances are
        ("less", 0.5, -0.02, math.inf),
    ],
)
def test_of_figures_below_zero_there_is_no_share(better, teacher, student, kept):
    base, mine = (measured(value, unit="", better=better) for value in (teacher, student))
    bar = run_bars(Targets(kept=95.0), teacher=base, cut=base, student=mine, fewest=mine)[0]
    np.testing.assert_equal(bar.value, kept)
    assert bar.met == (kept == math.inf) and bar.error == 0.0


def test_only_what_was_promised_and_measured_has_a_bar():
    one = measured(50.0)
    rows = {"teacher": one, "cut": one, "student": one, "fewest": one}
    assert run_bars(Targets(), **rows) == ()
    assert [bar.name for bar in run_bars(Targets(lost=1.0), **rows)] == [
        "Alignment lost from 16 to 6 bits"
    ]
    unjudged = dict.fromkeys(rows, Measured((), 400, seconds_per_image=1.0))
    assert [bar.unit for bar in run_bars(TARGETS, **unjudged)] == ["\N{MULTIPLICATION SIGN}"]
    assert verdict(()) == ""


def test_a_speed_that_nobody_took_is_no_bar():
    untimed = Measured((), 400)
    with pytest.raises(ValueError, match="seconds_per_image"):
        run_bars(TARGETS, teacher=untimed, cut=untimed, student=untimed, fewest=untimed)


def test_a_miss_that_lies_within_the_interval_is_no_miss():
    """Nor is it met: so many pictures cannot tell."""
    near = Bar("near", 17.0, 18.0, "x", error=1.5)
    far = Bar("far", 16.0, 18.0, "x", error=1.5)
    assert (near.met, near.open, near.state) == (False, True, "within the interval")
    assert (far.open, far.state) == (False, "not met")
    assert not Bar("nan", math.nan, 18.0, "x", error=1.5).open
    assert verdict([near, far, Bar("a", 1.0, 1.0, "x")]) == (
        "1 of 3 bars are met. Within the interval: near. Not met: far."
    )


def test_the_interval_of_a_bar_is_that_of_its_two_figures():
    def row(value: float, error: float, seconds: float = 1.0) -> Measured:
        figure = Figure("whole", value, "%", error=error)
        return Measured((figure,), 400, seconds_per_image=seconds)

    kept, above, lost, faster = run_bars(
        TARGETS,
        teacher=row(80, 4),
        cut=row(75, 4),
        student=row(60, 3),
        fewest=row(58, 4),
        bits=(32, "8"),
    )
    np.testing.assert_allclose(kept.error, 75 * math.hypot(3 / 60, 4 / 80))
    np.testing.assert_allclose([above.error, lost.error, faster.error], [5, 5, 0])
    assert lost.name == "whole lost from 32 to 8 bits"
