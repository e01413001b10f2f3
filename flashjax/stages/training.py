"""What every training stage shares: resume, progress, metrics, checkpoints, a clean stop."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview

from flashjax.checkpoint import Checkpoints
from flashjax.data.pipeline import Position
from flashjax.parallel import signals
from flashjax.parallel.hosts import is_first
from flashjax.train.heartbeat import heartbeat
from flashjax.train.loop import Hook, Step, every, loop, progress
from flashjax.train.metrics import MetricsHook, make_writer
from flashjax.types import InputError, Metrics, Params

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """How long a job trains, on how many samples a step, and how often it reports and saves.

    A step that takes more than `stall_seconds` is taken for a hang, and explained.
    """

    steps: int
    batch_size: int
    log_steps: int
    checkpoint_steps: int
    stall_seconds: float = 1800.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value <= 0:
                raise InputError(f"{name}={value}: give more than 0")


def run_job(
    name: str,
    folder: Path,
    job: JobConfig,
    *,
    step: Step,
    init: Callable[[], Any],
    abstract: Any,
    data: Position,
) -> Any:
    """Trains from the newest checkpoint in `folder`, or from `init()`, to `job.steps`.

    Args:
      name: shown on the progress bar.
      folder: checkpoints and metrics go there.
      job: lengths and intervals, in steps.
      step: `step(state, batch) -> (state, metrics)`.
      init: makes the first state.
      abstract: shapes, dtypes and shardings of the state, to restore into.
      data: batches whose position is part of the checkpoint.

    Returns:
      The state after `job.steps` steps. Raises `Interrupted` after a signal, everything saved, and
      FloatingPointError where a number was none: what is saved is finite.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    start = checkpoints.latest_step() or 0
    if start:
        state, position = checkpoints.restore(start, abstract)
        data.set_state(position)
        log.info("%s goes on from step %d", name, start)
    else:
        state = init()
    # Every process writes what its own devices say; the first one's folder is the job's.
    own = "metrics" if is_first() else f"metrics-{jax.process_index()}"
    writer = make_writer(folder / own)
    logged = MetricsHook(writer, steps=job.log_steps, stop=job.steps)

    def save(number: int, state: Any, *, wait: bool = False) -> None:
        logged.check(number)
        checkpoints.save(number, state, data.get_state(), wait=wait)

    try:
        alive = heartbeat(
            folder / "hosts", jax.process_index(), stall_seconds=job.stall_seconds, start=start
        )
        with progress(name, start=start, stop=job.steps) as show, alive as beat:
            keep = every(job.checkpoint_steps, lambda n, s, _: save(n, s), stop=job.steps)
            return loop(
                step,
                state,
                data,
                start=start,
                stop=job.steps,
                hooks=[show, beat, first_step(name), logged, keep],
                save=lambda n, s: save(n, s, wait=True),
            )
    finally:
        checkpoints.close()
        writer.close()


def first_step(name: str) -> Hook:
    """A hook that says how long the first step of this start was waited for."""
    begun, done = time.monotonic(), False

    def hook(step: int, state: Any, metrics: Metrics) -> None:
        nonlocal done
        if not done:
            done = True
            jax.block_until_ready(metrics)
            now = time.monotonic()
            times = (now - signals.STARTED, now - begun)
            log.info("%s: first step %.1f s after the command, itself %.1f s", name, *times)

    return hook


def show_parameters(params: Params) -> None:
    """Logs the table of parameters at the start of a job."""
    log.info("\n%s", parameter_overview.get_parameter_overview(params, include_stats=False))


def curves(folder: Path) -> list[dict[str, Any]]:
    """The scalars that a job wrote, one record per interval, in step order."""
    path = folder / "metrics" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
