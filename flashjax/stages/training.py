"""What every training stage shares: resume, progress, metrics, checkpoints, a clean stop."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview

from flashjax.checkpoint import Checkpoints
from flashjax.data.pipeline import Position
from flashjax.parallel.hosts import is_first
from flashjax.train.heartbeat import heartbeat
from flashjax.train.loop import Step, every, loop, progress
from flashjax.train.metrics import MetricsHook, make_writer
from flashjax.types import Count, Params, Positive

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """How long a job trains, on how many samples a step, and how often it reports and saves.

    A step that takes more than `stall_seconds` is taken for a hang, and explained.
    """

    steps: Count
    batch_size: Count
    log_steps: Count
    checkpoint_steps: Count
    stall_seconds: Positive = 1800.0


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
                hooks=[show, beat, logged, keep],
                save=lambda n, s: save(n, s, wait=True),
            )
    finally:
        checkpoints.close()
        writer.close()


def show_parameters(params: Params) -> None:
    """Logs the table of parameters at the start of a job."""
    log.info("\n%s", parameter_overview.get_parameter_overview(params, include_stats=False))


def curves(folder: Path) -> list[dict[str, Any]]:
    """The scalars that a job wrote, one record per interval, in step order."""
    path = folder / "metrics" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
