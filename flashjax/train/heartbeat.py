"""A sign of life from every process, and its stacks and its end where it falls silent.

A collective that one process misses stops all of them without a word. Each process notes its last
step in `heartbeat-N.json`; when no step ends for `stall_seconds`, it writes what each of its
threads is doing to `stacks-N.txt`, with the step. All hosts stop together, so all of them write,
and each log says how far every process came. Then they end, to be started again: a machine that
hangs costs what one that works does. The first step is watched, too: it compiles.
"""

import contextlib
import faulthandler
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flashjax.parallel import signals
from flashjax.train.loop import Hook
from flashjax.types import Metrics

LEAVE_SECONDS = 15.0  # after its own stacks, for the others to write theirs

log = logging.getLogger(__name__)


@contextlib.contextmanager
def heartbeat(
    folder: Path, process: int, *, stall_seconds: float, start: int = 0
) -> Iterator[Hook]:
    """A hook for every step of process number `process`; the watch ends with the block.

    `start` steps have been done before. Stacks of an earlier start are kept, under another name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / f"heartbeat-{process}.json"
    draft = note.with_suffix(".tmp")
    alarm = threading.Timer(stall_seconds, lambda: None)
    moved = threading.Event()
    keep_old(folder / f"stacks-{process}.txt")
    with (folder / f"stacks-{process}.txt").open("w") as stacks:

        def watch(step: int) -> None:
            nonlocal alarm, moved
            draft.write_text(json.dumps({"step": step, "time": time.time()}) + "\n")
            draft.replace(note)  # whole, for whoever reads it now
            stacks.seek(0)
            stacks.truncate()
            limit = f"stacks follow if none ends for {stall_seconds} s"
            stacks.write(f"process {process}: step {step} has ended; {limit}\n")
            stacks.flush()
            # The stacks come from a thread that asks no interpreter, the line in the log does.
            faulthandler.dump_traceback_later(stall_seconds, file=stacks)
            alarm.cancel()
            moved.set()
            moved = threading.Event()
            alarm = threading.Timer(stall_seconds, leave_unless, (moved, folder, step))
            alarm.daemon = True
            alarm.start()

        def hook(step: int, state: object, metrics: Metrics) -> None:
            watch(step)

        try:
            watch(start)
            yield hook
        finally:
            faulthandler.cancel_dump_traceback_later()
            alarm.cancel()
            moved.set()


def keep_old(stacks: Path) -> None:
    """Gives stacks that a process has written a name that the next one does not write over."""
    if stacks.exists() and len(stacks.read_text().splitlines()) > 1:
        starts = len(list(stacks.parent.glob(f"{stacks.stem}.*.txt")))
        stacks.rename(stacks.with_suffix(f".{starts + 1}.txt"))


def leave_unless(moved: threading.Event, folder: Path, step: int) -> None:
    """Says that no step ends, and ends the process unless one does so late."""
    log.error("%s", said_of(folder, step))
    if not moved.wait(LEAVE_SECONDS):
        signals.end(f"a hang after step {step}; {signals.saved()}; {signals.AGAIN}")


def said_of(folder: Path, step: int) -> str:
    """One line on a hang after `step`: which processes came how far, and where their stacks are."""
    reached: dict[int, list[str]] = {}
    for note in sorted(folder.glob("heartbeat-*.json"), key=lambda path: (len(path.name), path)):
        number = note.stem.removeprefix("heartbeat-")
        reached.setdefault(json.loads(note.read_text())["step"], []).append(number)
    steps = "; ".join(f"step {at}: process {', '.join(who)}" for at, who in sorted(reached.items()))
    return f"no step ends after step {step} ({steps}); stacks of all: {folder}/stacks-*.txt"
