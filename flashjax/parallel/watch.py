"""A sign of life from every process, and its stacks and its end where it falls silent.

A collective that one process misses stops all of them without a word. Each process notes what it
is at in `heartbeat-N.json`; when nothing is heard of it for `stall_seconds`, it writes what each of
its threads is doing to `stacks-N.txt`. All hosts stop together, so all of them write, and each log
says what every process was at. Then they end, to be started again: a machine that hangs costs what
one that works does. Who waits for another that is alive waits on.

Training has a watch of its own, which counts steps (train/heartbeat.py); all else in a stage of
several processes has that of the stage. There is one timer of a process: one of them rests.
"""

import contextlib
import faulthandler
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from flashjax.parallel import signals

STALL_SECONDS = 3600.0  # outside training: what says nothing meanwhile is taken for a hang
LEAVE_SECONDS = 15.0  # after its own stacks, for the others to write theirs
LOCKED_SECONDS = 5.0  # after which a process whose interpreter is locked writes stacks without it

_of_stage: list["Watch"] = []  # the watch of the stage at work, unless it rests

log = logging.getLogger(__name__)


class Watch:
    """The watch over process number `process`, whose files lie in `folder`.

    Stacks of an earlier start are kept, under another name.
    """

    def __init__(self, folder: Path, process: int, *, stall_seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._process, self._seconds = folder, process, stall_seconds
        self._note = folder / f"heartbeat-{process}.json"
        keep_old(folder / f"stacks-{process}.txt")
        if process == 0:
            self._forget(jax.process_count())
        self._stacks = (folder / f"stacks-{process}.txt").open("w")
        self._alarm = threading.Timer(stall_seconds, lambda: None)
        self._moved = threading.Event()
        self._turn = threading.Lock()

    def alive(self, at: str, **more: Any) -> None:
        """Notes what the process is at, in words; silence is counted from now."""
        draft = self._note.with_suffix(".tmp")
        draft.write_text(json.dumps({"at": at, **more, "time": time.time()}) + "\n")
        draft.replace(self._note)  # whole, for whoever reads it now
        self._stacks.seek(0)
        self._stacks.truncate()
        limit = f"stacks follow if that is all for {self._seconds} s"
        self._stacks.write(f"process {self._process}: {at}; {limit}\n")
        self._stacks.flush()
        with self._turn:
            self._count(self._seconds, at)

    def rest(self) -> None:
        """Counts no longer, until the next sign of life."""
        with self._turn:
            faulthandler.cancel_dump_traceback_later()
            self._alarm.cancel()
            self._moved.set()

    def _forget(self, processes: int) -> None:
        """Takes away the signs of life of processes that an earlier, larger start had."""
        for note in self._folder.glob("heartbeat-*.json"):
            if int(note.stem.removeprefix("heartbeat-")) >= processes:
                note.unlink(missing_ok=True)

    def close(self, *, leave_files: bool) -> None:
        """Ends the watch; a process that did not hang may leave no files."""
        self.rest()
        self._stacks.close()
        if not leave_files:
            for path in (self._note, Path(self._stacks.name)):
                path.unlink(missing_ok=True)
            for folder in (self._folder, self._folder.parent):
                with contextlib.suppress(OSError):  # it holds something
                    folder.rmdir()

    def _count(self, seconds: float, at: str) -> None:
        # A thread that asks no interpreter may fall over threads that run meanwhile: it writes
        # stacks only where the alarm, which asks, has not been let in.
        faulthandler.dump_traceback_later(seconds + LOCKED_SECONDS, file=self._stacks)
        self._alarm.cancel()
        self._moved.set()
        self._moved = threading.Event()
        self._alarm = threading.Timer(seconds, self._silent, (self._moved, at))
        self._alarm.daemon = True
        self._alarm.start()

    def _silent(self, moved: threading.Event, at: str) -> None:
        """Says that nothing is heard, and ends the process unless it is heard of late."""
        late = self._behind()
        with self._turn:
            if moved.is_set():
                return
            faulthandler.cancel_dump_traceback_later()
            faulthandler.dump_traceback(file=self._stacks)  # who waits may be ended by the other
            if late > 0:
                self._count(late, at)
                return
        log.error("nothing is heard after %s", said_of(self._folder, at))
        if not moved.wait(LEAVE_SECONDS):
            signals.end(f"a hang after {at}; {signals.saved()}; {signals.AGAIN}")

    def _behind(self) -> float:
        """Seconds by which another process was heard of later, by the clock of the disk."""
        own, last = _time_of(self._note), 0.0
        for note in self._folder.glob("heartbeat-*.json"):
            last = max(last, _time_of(note))
        return last - own


@contextlib.contextmanager
def watched(folder: Path, process: int, at: str) -> Iterator[None]:
    """Watches over a process within the block, in which `alive` is its sign of life."""
    watch = Watch(folder, process, stall_seconds=STALL_SECONDS)
    _of_stage.append(watch)
    try:
        watch.alive(at)
        yield
    finally:
        _of_stage.remove(watch)
        watch.close(leave_files=False)


def alive(at: str) -> None:
    """A sign of life: what this process begins now. Nothing where nobody watches, or training."""
    for watch in _of_stage:
        watch.alive(at)


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """The watch of a stage rests within the block, which has one of its own."""
    rest = [*_of_stage]
    _of_stage.clear()
    for watch in rest:
        watch.rest()
    try:
        yield
    finally:
        _of_stage.extend(rest)
        alive("what follows its steps")


def keep_old(stacks: Path) -> None:
    """Gives stacks that a process has written a name that the next one does not write over."""
    if stacks.exists() and len(stacks.read_text().splitlines()) > 1:
        starts = len(list(stacks.parent.glob(f"{stacks.stem}.*.txt")))
        stacks.rename(stacks.with_suffix(f".{starts + 1}.txt"))


def said_of(folder: Path, at: str) -> str:
    """One line on a hang: what every process was at, and where their stacks are."""
    reached: dict[str, list[str]] = {}
    for note in sorted(folder.glob("heartbeat-*.json"), key=lambda path: (len(path.name), path)):
        with contextlib.suppress(FileNotFoundError):  # that process has ended its work
            at_there = json.loads(note.read_text())["at"]
            reached.setdefault(at_there, []).append(note.stem.removeprefix("heartbeat-"))
    places = "; ".join(f"{at}: process {', '.join(who)}" for at, who in sorted(reached.items()))
    return f"{at} ({places}); stacks of all: {folder}/stacks-*.txt"


def _time_of(note: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # that process has ended its work
        return note.stat().st_mtime
    return 0.0
