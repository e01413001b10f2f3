"""A trace of some steps of a job, which XProf and TensorBoard open."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from flashjax.train.loop import Hook
from flashjax.types import InputError, Metrics

log = logging.getLogger(__name__)


def span_of(text: str) -> tuple[int, int] | None:
    """The first and the last step of "10:13"; None of "". InputError for what is none."""
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise InputError(f"profile={text}: give the first and the last step, such as 10:13")
    return first, last


@contextlib.contextmanager
def traced(folder: Path, span: tuple[int, int] | None, *, start: int) -> Iterator[Hook]:
    """A hook that has the steps of `span` traced into `folder`; `start` were done before.

    What the steps have asked of the devices ends before the trace does. A job that goes on within
    the span traces what is left of it; where nothing is, a line says so.
    """
    running = begun = False

    def begin(step: int) -> None:
        nonlocal running, begun
        if span and not running and span[0] <= step + 1 <= span[1]:
            running = begun = True
            jax.profiler.start_trace(str(folder))

    def end() -> None:
        nonlocal running
        running = False
        jax.profiler.stop_trace()
        log.info("a trace is in %s: tensorboard --logdir %s", folder, folder)

    def hook(step: int, state: Any, metrics: Metrics) -> None:
        begin(step)
        if running and span and step >= span[1]:
            jax.block_until_ready(metrics)
            end()

    begin(start)
    try:
        yield hook
    finally:
        if running:
            end()
        if span and not begun:
            log.warning("no trace: none of the steps %d to %d was trained by this start", *span)
