"""What every training stage shares: resume, progress, metrics, checkpoints, a clean stop."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import Checkpoints
from flashjax.data.pipeline import Position
from flashjax.parallel.hosts import is_first
from flashjax.train.average import AverageConfig
from flashjax.train.heartbeat import heartbeat
from flashjax.train.loop import Step, every, loop, progress
from flashjax.train.metrics import MetricsHook, make_writer
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import Descent
from flashjax.types import InputError, Params

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """How long a job trains, on how many samples a step, and how often it reports and saves.

    A step that takes more than `stall_seconds` is taken for a hang, and explained. A network whose
    updates were skipped so many times in a row stops the job: `most_skipped`.
    """

    steps: int
    batch_size: int
    log_steps: int
    checkpoint_steps: int
    stall_seconds: float = 1800.0
    most_skipped: int = 10

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value <= 0:
                raise InputError(f"{name}={value}: give more than 0")


def descent_of(
    config: ConfigDict,
    optimiser: str,
    steps: int,
    average: AverageConfig | None = None,
    *,
    pooled: bool = False,
) -> Descent:
    """How a network of a job of `steps` updates is trained, from its section of the config."""
    found = configs.section(config, optimiser, OptimiserConfig)
    return Descent(make_optimiser(found, steps, pooled=pooled), average, found.spike)


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

    Returns the state after `job.steps` steps. Raises `Interrupted` after a signal, all saved, and
    FloatingPointError where updates had to be skipped too often: what is saved is finite.
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
    logged = MetricsHook(writer, steps=job.log_steps, stop=job.steps, most_skipped=job.most_skipped)

    def save(number: int, state: Any, *, wait: bool = False) -> None:
        logged.check(number)
        checkpoints.save(number, state, data.get_state(), wait=wait)

    alive = heartbeat(
        folder / "hosts", jax.process_index(), stall_seconds=job.stall_seconds, start=start
    )
    shown = progress(name, start=start, stop=job.steps)
    try:
        with saying(name, checkpoints), shown as show, alive as beat:
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


@contextlib.contextmanager
def saying(name: str, checkpoints: Checkpoints) -> Iterator[None]:
    """Numbers that broke are told with the job's name, and with what there is from before."""
    try:
        yield
    except FloatingPointError as error:
        saved = checkpoints.latest_step()
        where = f"the last save is of step {saved}" if saved else "nothing was saved before"
        raise FloatingPointError(f"{name}: {error}; {where}") from error


def show_parameters(params: Params) -> None:
    """Logs the table of parameters at the start of a job."""
    log.info("\n%s", parameter_overview.get_parameter_overview(params, include_stats=False))


def curves(folder: Path) -> list[dict[str, Any]]:
    """The scalars that a job wrote, one record per interval, in step order."""
    path = folder / "metrics" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
