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
    """A figure that was promised: `value` is to be at least, or at most, `target`, in `unit`.

    `error` is half the interval that the value is known within.
    """

    name: str
    value: float
    target: float
    unit: str
    sense: Sense = AT_LEAST
    error: float = 0.0

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.target if self.sense == AT_LEAST else self.value <= self.target

    @property
    def open(self) -> bool:
        """Whether it is not met by so little that these pictures cannot tell."""
        return not self.met and abs(self.value - self.target) <= self.error

    @property
    def state(self) -> str:
        """The same in words."""
        return "met" if self.met else "within the interval" if self.open else "not met"


@dataclass(frozen=True)
class Targets:
    """What a config promises; None is no promise.

    Attributes:
      kept: of the teacher's figure, in percent.
      above: the teacher in as few steps, in the figure's unit.
      lost: from the exported to the fewest bits, in the figure's unit, at most.
      faster: than the teacher, as a ratio.
    """

    kept: float | None = None
    above: float | None = None
    lost: float | None = None
    faster: float | None = None


def run_bars(
    targets: Targets,
    *,
    teacher: Measured,
    cut: Measured,
    student: Measured,
    fewest: Measured,
    bits: tuple[int, str] = (16, "6"),
) -> tuple[Bar, ...]:
    """The bars of a run; those of a figure are left out where no judge gave one.

    `teacher` is guided in many steps, `cut` has as few steps as `student`, `fewest` is the
    student's smallest file, and `bits` are those of these two. Of a teacher whose figure is 0,
    or of figures below it, nothing can be kept: that share is NaN, and its bar is not met.
    """
    bars: list[Bar] = []

    def promise(
        name: str, value: float, target: float | None, unit: str, sense: Sense, error: float = 0.0
    ) -> None:
        if target is not None:
            bars.append(Bar(name, value, target, unit, sense, error))

    if student.figures:
        base, few, mine, small = (found.figures[0] for found in (teacher, cut, student, fewest))
        what, unit = mine.title, "points" if mine.unit == "%" else mine.unit
        above, lost = mine.ahead_of(few), mine.ahead_of(small)
        kept, doubt = _kept(mine, base), _kept_error(mine, base)
        promise(f"{what} kept from the teacher", kept, targets.kept, "%", AT_LEAST, doubt)
        name = f"{what} above the teacher in as few steps"
        promise(name, above, targets.above, unit, AT_LEAST, _apart(mine, few))
        name = f"{what} lost from {bits[0]} to {bits[1]} bits"
        promise(name, lost, targets.lost, unit, AT_MOST, _apart(mine, small))
    if not teacher.seconds_per_image or not student.seconds_per_image:
        raise ValueError("run_bars: the teacher and the student need seconds_per_image")
    faster = teacher.seconds_per_image / student.seconds_per_image
    promise("Speed against the teacher", faster, targets.faster, TIMES, AT_LEAST)
    return tuple(bars)


def verdict(bars: Sequence[Bar]) -> str:
    """How many bars are met, and by name those that are not, or that these pictures cannot tell;
    "" for no bars.
    """
    if not bars:
        return ""
    met = sum(bar.met for bar in bars)
    if met == len(bars):
        return f"All {met} bars are met."
    said = [f"{met} of {len(bars)} bars are met."]
    groups = {
        "Within the interval": [bar.name for bar in bars if bar.open],
        "Not met": [bar.name for bar in bars if not bar.met and not bar.open],
    }
    said += [f"{group}: {'; '.join(names)}." for group, names in groups.items() if names]
    return " ".join(said)


def _kept(mine: Figure, base: Figure) -> float:
    """The share of the teacher's figure, in percent: of one that is better small, its inverse.

    Of figures at or below 0 there is no share, NaN; but where less is better, and the teacher's is
    above 0, all is kept.
    """
    good, whole = (mine, base) if mine.better == "more" else (base, mine)
    if good.value >= 0 and whole.value > 0:
        return 100 * good.value / whole.value
    return math.inf if mine.better == "less" and base.value > 0 else math.nan


def _apart(mine: Figure, other: Figure) -> float:
    """Half the interval of a difference; that of the same captions is smaller, if anything."""
    return math.hypot(mine.error or 0.0, other.error or 0.0)


def _kept_error(mine: Figure, base: Figure) -> float:
    """Half the interval of `_kept`, in percent, to first order."""
    kept = _kept(mine, base)
    if not math.isfinite(kept) or not mine.value or not base.value:
        return 0.0
    relative = math.hypot((mine.error or 0.0) / mine.value, (base.error or 0.0) / base.value)
    return kept * relative
