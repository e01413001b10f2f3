"""The watch over a job that trains: its signs of life are steps (parallel/watch.py).

The first step is watched, too: it compiles.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from flashjax.parallel.watch import Watch, resting
from flashjax.train.loop import Hook
from flashjax.types import Metrics


@contextlib.contextmanager
def heartbeat(
    folder: Path, process: int, *, stall_seconds: float, start: int = 0
) -> Iterator[Hook]:
    """A hook for every step of process number `process`; the watch ends with the block.

    `start` steps have been done before.
    """
    with resting():
        watch = Watch(folder, process, stall_seconds=stall_seconds)

        def hook(step: int, state: object, metrics: Metrics) -> None:
            watch.alive(f"step {step}", step=step)

        try:
            hook(start, None, {})
            yield hook
        finally:
            watch.close(leave_files=True)
