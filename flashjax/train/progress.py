"""A job on the terminal: a bar with its figures, or, where there is no terminal, lines in the log.

It is a writer of metrics, so that it shows what the curves get, and asks no device for anything.
"""

import contextlib
import datetime
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flashjax.parallel.units import counted, sized
from flashjax.train.loop import State
from flashjax.train.metrics import MetricWriter
from flashjax.types import Metrics


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


FIGURES: dict[str, Callable[[float], str]] = {  # of a machine, and how each is said
    "speed/samples_per_second": "{:.3g}".format,
    "speed/flops_per_device": functools.partial(counted, unit="FLOP/s"),
    "speed/mfu": _share,
    "memory/device_bytes": sized,
    "memory/host_bytes": sized,
    "time/goodput": _share,
}

log = logging.getLogger(__name__)


class Shown(MetricWriter):
    """A loop hook that moves the bar, and a writer that says the figures beside it.

    A line in the log is written at most every `log_seconds`, and after the step `stop`.
    """

    def __init__(self, name: str, bar: Progress, *, start: int, stop: int, log_seconds: float):
        self._name, self._stop, self._log_seconds = name, stop, log_seconds
        self._bar, self._task = bar, bar.add_task(name, total=stop, completed=start, told="")
        self._timer = _Timer()
        self._next = time.monotonic() + log_seconds

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        self._timer.seconds_per_step(step)
        self._bar.update(self._task, completed=step)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        seconds = self._timer.seconds_per_step(step)
        told = f"{seconds:.3g} s/step{in_words(scalars)}"
        self._bar.update(self._task, told=told)
        due = time.monotonic() >= self._next or step == self._stop
        if self._bar.disable and due:
            self._next = time.monotonic() + self._log_seconds
            left = datetime.timedelta(seconds=round(seconds * (self._stop - step)))
            log.info("%s %d/%d  %s left  %s", self._name, step, self._stop, left, told)


@contextlib.contextmanager
def progress(name: str, *, start: int, stop: int, log_seconds: float = 15.0) -> Iterator[Shown]:
    """Shows a job while the block runs. Its first step is not timed: it compiles."""
    bar = _bar()
    shown = Shown(name, bar, start=start, stop=stop, log_seconds=log_seconds)
    with bar:
        yield shown


def in_words(scalars: Mapping[str, Any]) -> str:
    """Losses, learning rates, speed and memory, each after two blanks; what is not there is not
    said.
    """
    losses = [f"{name} {x:.4g}" for name, x in scalars.items() if name.endswith("loss")]
    rates = [f"{name} {x:.2g}" for name, x in scalars.items() if name.endswith("learning_rate")]
    units = {"speed/flops_per_device": " a device", "speed/samples_per_second": " samples/s"}
    names = {"speed/mfu": "MFU ", "time/goodput": "goodput "}
    names |= {"memory/device_bytes": "device ", "memory/host_bytes": "host "}
    more = [
        f"{names.get(name, '')}{form(scalars[name])}{units.get(name, '')}"
        for name, form in FIGURES.items()
        if name in scalars
    ]
    return "".join(f"  {part}" for part in losses + rates + more)


class _Timer:
    """Mean time of the steps after the first one it sees."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def seconds_per_step(self, step: int) -> float:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        return (now - first_time) / max(1, step - first_step)


def _bar() -> Progress:
    """The progress bar; disabled where stderr is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
        console=console,
        disable=not console.is_terminal,
    )
