"""`Judge`: what measures pictures. A seam: the stages and the report know no more of one than this.

Letters: n pictures, H W pixels.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Better = Literal["more", "less"]


@dataclass(frozen=True)
class Figure:
    """One number that a judge gives.

    `error` is one standard error, or half an interval, in `unit`. Neighbours of one `heading` stand
    together in a table.
    """

    name: str
    value: float
    unit: str = ""
    better: Better = "more"
    error: float | None = None
    decimals: int = 2
    heading: str = ""

    @property
    def title(self) -> str:
        """What the figure is called where it stands alone."""
        return self.heading or self.name

    @property
    def merit(self) -> float:
        """The value, or its negative where less is better."""
        return self.value if self.better == "more" else -self.value

    def ahead_of(self, other: "Figure") -> float:
        """By how much this is better than `other`, in `unit`."""
        return self.merit - other.merit


@dataclass(frozen=True)
class Measured:
    """What is known of the pictures of one sampler.

    `figures` are those of all judges; `passes` counts runs of the transformer for one image (two
    for each guided step). Real pictures have no steps and no times.
    """

    figures: Sequence[Figure]
    samples: int
    steps: int | None = None
    passes: int | None = None
    seconds_per_image: float | None = None


@dataclass(frozen=True)
class Needs:
    """What a judge cannot do without.

    Attributes:
      weights: in words; "" is none.
      real: whether it must have real pictures to compare with.
      least: pictures that must be drawn.
      read: `read(prompt)`, InputError for one that it cannot judge; None where it can judge all.
      said: whether prompts must say something, for pictures are scored by it.
    """

    weights: str = ""
    real: bool = False
    least: int = 1
    read: Callable[[str], Any] | None = None
    said: bool = False


class Judge(Protocol):
    """Measures pictures of prompts. Its first figure is the one that promises are made of.

    `note` explains the figures to a reader of the report, in a few sentences.
    """

    @property
    def name(self) -> str:
        """How it is called in results."""

    @property
    def note(self) -> str:
        """What its figures mean, for a reader of the report."""

    def check(self, prompts: Sequence[str]) -> None:
        """InputError for prompts that it cannot judge: asked before anything is drawn."""

    def judge(self, images: np.ndarray, prompts: Sequence[str]) -> tuple[Figure, ...]:
        """The figures of pictures uint8 "n H W 3", the n-th one drawn for the n-th prompt."""


@dataclass(frozen=True)
class Compared:
    """Pictures uint8 "n H W 3" that others may be compared with: real ones, and the teacher's own.

    Features of them are kept in the folder `cache`.
    """

    real: np.ndarray | None = None
    teacher: np.ndarray | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class JudgeKind:
    """A judge before it is opened, by `open(weights, compared)`."""

    needs: Needs
    open: Callable[[Path, Compared], Judge]


def figures_of(
    judges: Sequence[Judge], images: np.ndarray, prompts: Sequence[str]
) -> tuple[Figure, ...]:
    """The figures of all judges, in their order; each has a name of its own beneath its heading.

    Where a judge before has a figure of that name, it is said whose this one is.
    """
    found: dict[tuple[str, str], Figure] = {}
    for judge in judges:
        for figure in judge.judge(images, prompts):
            again = (f" ({judge.name} {n})" for n in itertools.count(2))
            ends = itertools.chain(("", f" ({judge.name})"), again)
            names = (figure.name + end for end in ends)
            name = next(name for name in names if (figure.heading, name) not in found)
            found[figure.heading, name] = replace(figure, name=name)
    return tuple(found.values())


def told(figures: Sequence[Figure]) -> str:
    """Figures in one line: of neighbours under a heading, the first."""
    firsts = {figure.title: figure for figure in reversed(figures)}
    words = (f"{title} {f.value:.{f.decimals}f} {f.unit}" for title, f in firsts.items())
    return "  ".join(word.rstrip() for word in reversed(list(words)))
