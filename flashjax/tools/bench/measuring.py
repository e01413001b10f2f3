"""What every bench shares: calls that take turns, memory of the host, tables, files of figures."""

import contextlib
import dataclasses
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jaxlib

import flashjax
from flashjax.convert.outputs import check_free, foreign, keep_record
from flashjax.convert.writing import replacing, write_json
from flashjax.types import InputError

Key = TypeVar("Key", bound=Hashable)
STATUS, FORGET = "/proc/self/status", "/proc/self/clear_refs"
PEAK = "5"  # what Linux is told to forget: the most memory that a process has had


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds of each measured call: by the clock, and the user's time of all cores."""

    wall: list[float] = dataclasses.field(default_factory=list)
    user: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """By the clock."""
        return statistics.median(self.wall)


def check_rounds(rounds: int) -> None:
    """InputError for fewer than one."""
    if rounds < 1:
        raise InputError(f"--rounds {rounds}: give 1 or more")


def take_turns(
    calls: Mapping[Key, Callable[[], Any]], rounds: int, *, warm: bool = True
) -> dict[Key, Spent]:
    """What each call takes, `rounds` times; each waits for its own devices before it returns.

    They take turns, so that what else the machine does meets all of them. With `warm` each is
    called once before, unmeasured: to compile.
    """
    if warm:
        for call in calls.values():
            call()
    spent = {key: Spent() for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            started, busy = time.perf_counter(), os.times().user
            call()
            spent[key].wall.append(time.perf_counter() - started)
            spent[key].user.append(os.times().user - busy)
    return spent


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first column to the left and the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = []
    for first, *others in lines:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        told.append("  ".join(["", f"{first:{widths[0]}}", *cells]))
    return "\n".join(told)


def counted(file: str, name: str) -> int:
    """A number that Linux keeps about this process."""
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@dataclasses.dataclass
class Grown:
    """By how many bytes this process grew at its most; None where no kernel tells."""

    nbytes: int | None = None


@contextlib.contextmanager
def growing() -> Iterator[Grown]:
    """Counts the host's memory within the block; what it says is there after it."""
    grown, before = Grown(), None
    with contextlib.suppress(OSError, StopIteration):  # not Linux, or not allowed
        Path(FORGET).write_text(PEAK)
        before = counted(STATUS, "VmRSS")
    yield grown
    if before is not None:
        grown.nbytes = 1024 * max(0, counted(STATUS, "VmHWM") - before)


def check_file(out: str | None, flag: str = "--json") -> None:
    """InputError where figures cannot be written to `out`: not ours, or no place for a file."""
    if not out:
        return
    path = Path(out)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{flag} {out}: there is no folder {path.parent}")
    if path.is_dir():
        raise InputError(f"{flag} {out} is a folder: name a file")
    if os.path.lexists(path) and foreign(path):
        raise InputError(
            f"{flag} {out} is there, and flashjax did not write it so: name another file, or move "
            "it away"
        )
    check_free([path], force=False)


def write_figures(out: str, bench: str, command: str, figures: Mapping[str, Any]) -> None:
    """Writes figures with what they were measured on, by which command and when."""
    devices = jax.local_devices()
    record = {
        "bench": bench,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "flashjax": flashjax.__version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "python": platform.python_version(),
        },
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cores": os.cpu_count(),
    }
    keep_file(Path(out), record | dict(figures))


def keep_file(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON file whole, and that it is ours."""
    with replacing(path) as draft:
        write_json(draft, record)
    keep_record(path)
