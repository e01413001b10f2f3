"""Bars: what a run promises of its figures, and whether it is kept.

Promises are made of the first figure of the first judge, and of speed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flashjax.evaluate.judge import Figure, Measured

Sense = Literal["at least", "at most"]
AT_LEAST: Sense = "at least"
AT_MOST: Sense = "at most"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Bar:
    """A figure that was promised: `value` is to be at least, or at most, `target`, in `unit`."""

    name: str
    value: float
    target: float
    unit: str
    sense: Sense = AT_LEAST

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.target if self.sense == AT_LEAST else self.value <= self.target


@dataclass(frozen=True)
class Targets:
    """What a config promises; None is no promise.

    Attributes:
      kept: of the teacher's figure, in percent.
      above: the teacher in as few steps, in the figure's unit.
      lost: from 16 to the fewest bits, in the figure's unit, at most.
      faster: than the teacher, as a ratio.
    """

    kept: float | None = None
    above: float | None = None
    lost: float | None = None
    faster: float | None = None


def run_bars(
    targets: Targets, *, teacher: Measured, cut: Measured, student: Measured, fewest: Measured
) -> tuple[Bar, ...]:
    """The bars of a run; those of a figure are left out where no judge gave one.

    `teacher` is guided in many steps, `cut` has as few steps as `student`, `fewest` is the
    student's smallest file. Of a teacher whose figure is 0 nothing can be kept: that share is NaN,
    and its bar is not met.
    """
    bars: list[Bar] = []

    def promise(name: str, value: float, target: float | None, unit: str, sense: Sense) -> None:
        if target is not None:
            bars.append(Bar(name, value, target, unit, sense))

    if student.figures:
        base, few, mine, small = (found.figures[0] for found in (teacher, cut, student, fewest))
        what, unit = mine.title, "points" if mine.unit == "%" else mine.unit
        above, lost = mine.ahead_of(few), mine.ahead_of(small)
        promise(f"{what} kept from the teacher", _kept(mine, base), targets.kept, "%", AT_LEAST)
        promise(f"{what} above the teacher in as few steps", above, targets.above, unit, AT_LEAST)
        promise(f"{what} lost from 16 to 6 bits", lost, targets.lost, unit, AT_MOST)
    if not teacher.seconds_per_image or not student.seconds_per_image:
        raise ValueError("run_bars: the teacher and the student need seconds_per_image")
    faster = teacher.seconds_per_image / student.seconds_per_image
    promise("Speed against the teacher", faster, targets.faster, TIMES, AT_LEAST)
    return tuple(bars)


def verdict(bars: Sequence[Bar]) -> str:
    """How many bars are met, and by name those that are not, as one sentence; "" for no bars."""
    missed = [bar.name for bar in bars if not bar.met]
    if not bars:
        return ""
    if not missed:
        return f"All {len(bars)} bars are met."
    return f"{len(bars) - len(missed)} of {len(bars)} bars are met. Not met: {'; '.join(missed)}."


def _kept(mine: Figure, base: Figure) -> float:
    """The share of the teacher's figure, in percent: of one that is better small, its inverse."""
    good, whole = (mine, base) if mine.better == "more" else (base, mine)
    return 100 * good.value / whole.value if whole.value else math.nan
