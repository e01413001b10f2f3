"""Where the seconds of a job go: start, compile, input, step, checkpoint, evaluation."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from flashjax.parallel import signals
from flashjax.parallel.compiling import COMPILING

CATEGORIES = ("start", "compile", "input", "step", "checkpoint", "evaluation")


class _Accounted:
    """Up to when this process' seconds stand in an account: a job's begins where another ended."""

    until = signals.STARTED


class Goodput:
    """The account of one job. What is compiled, whenever it is, is `compile`'s.

    `start` is from the command, or from the end of the job before, to the first step.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(CATEGORIES, 0.0)
        self._category, self._since = "start", _Accounted.until
        self._compiled = COMPILING.seconds if _Accounted.until != signals.STARTED else 0.0

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """The seconds of the block; blocks may lie in each other, and the inner one counts."""
        before = self._turn(category)
        try:
            yield
        finally:
            self._turn(before)

    def seconds(self) -> dict[str, float]:
        """By category, up to now."""
        self._turn(self._category)
        return dict(self._seconds)

    def close(self) -> None:
        """The job has ended."""
        self._turn(self._category)
        _Accounted.until = self._since

    def _turn(self, category: str) -> str:
        """From now on the seconds are those of `category`; returns whose they were."""
        now, compiled, before = time.monotonic(), COMPILING.seconds, self._category
        passed = now - self._since
        compiling = min(passed, compiled - self._compiled)
        self._seconds["compile"] += compiling
        self._seconds[before] += passed - compiling
        self._category, self._since, self._compiled = category, now, compiled
        return before


class Drawn:
    """Batches whose making is `input`'s."""

    def __init__(self, batches: Iterator[Any], goodput: Goodput) -> None:
        self._batches, self._goodput = batches, goodput

    def __iter__(self) -> "Drawn":
        return self

    def __next__(self) -> Any:
        with self._goodput.during("input"):
            return next(self._batches)


def counted(category: str, goodput: Goodput, call: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its seconds those of `category`."""

    def within(*arguments: Any, **more: Any) -> Any:
        with goodput.during(category):
            return call(*arguments, **more)

    return within
