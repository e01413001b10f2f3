"""A sign of life from every process, and its stacks where it falls silent.

A collective that one process misses stops all of them without a word. Each process notes its last
step in `heartbeat-N.json`; when no step ends for `stall_seconds`, it writes what each of its
threads is doing to `stacks-N.txt`, with the step. All hosts stop together, so all of them write.
"""

import contextlib
import faulthandler
import json
import time
from collections.abc import Iterator
from pathlib import Path

from flashjax.train.loop import Hook
from flashjax.types import Metrics


@contextlib.contextmanager
def heartbeat(folder: Path, process: int, *, stall_seconds: float) -> Iterator[Hook]:
    """A hook for every step of process number `process`; the watch ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / f"heartbeat-{process}.json"
    with (folder / f"stacks-{process}.txt").open("w") as stacks:

        def watch(step: int) -> None:
            stacks.seek(0)
            stacks.truncate()
            stacks.write(f"process {process}: no step ended for {stall_seconds} s after {step}\n")
            stacks.flush()
            faulthandler.dump_traceback_later(stall_seconds, file=stacks)

        def hook(step: int, state: object, metrics: Metrics) -> None:
            note.write_text(json.dumps({"step": step, "time": time.time()}) + "\n")
            watch(step)

        try:
            yield hook
        finally:
            faulthandler.cancel_dump_traceback_later()
