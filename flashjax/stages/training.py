"""What every training stage shares: resume, progress, metrics, checkpoints, a clean stop."""

import contextlib
import dataclasses
import functools
import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import Checkpoints
from flashjax.data.pipeline import Chosen, Position
from flashjax.evaluate.judge import Figure, told
from flashjax.evaluate.live import PAGE, LivePage
from flashjax.parallel import signals
from flashjax.parallel.hosts import agreed, is_first, meet
from flashjax.stages import mirror
from flashjax.stages.contents import CHECKPOINTS
from flashjax.stages.stage import write_json
from flashjax.train.average import AverageConfig
from flashjax.train.goodput import Drawn, Goodput, counted
from flashjax.train.heartbeat import heartbeat
from flashjax.train.histograms import gradient_samples
from flashjax.train.loop import Hook, Step, every, loop, once
from flashjax.train.metrics import (
    CURVES,
    Broken,
    MetricsHook,
    MetricWriter,
    MultiWriter,
    make_writer,
    records,
)
from flashjax.train.optim import OptimiserConfig, make_optimiser, rate_at, warn_of_overlap
from flashjax.train.progress import progress
from flashjax.train.speed import EACH_STEP, Pace, Rate, Speedometer, Work
from flashjax.train.state import Descent
from flashjax.train.trace import span_of, traced
from flashjax.train.trackers import check_known, open_trackers
from flashjax.types import Count, InputError, Metrics, Params, Positive, Whole

TRACE = "trace"  # the folder of what is profiled
HOSTS, BATCHES = "hosts", "batches.json"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """How long a job trains, on how many samples a step, and how often it reports and saves.

    Attributes:
      steps: that it trains.
      batch_size: samples of a step, on all devices together.
      log_steps: between two records of its metrics.
      checkpoint_steps: between two saves.
      stall_seconds: a step that takes more is taken for a hang, and explained.
      keep: the newest checkpoints that stay while it trains; once it is done, one.
      milestone_steps: saves of every so many steps stay for good; 0 is none.
      most_skipped: updates of a network that are skipped in a row before the job is stopped.
      sample_steps: between two grids of pictures, of guide and match; 0 is none.
      judge_steps: between two looks of a judge at its pictures, as sample_steps; 0 is none.
      judged: captions that are drawn for the judge, none of those that are reported.
      best: checkpoints that stay for what the judge says of them.
      histogram_steps: between two histograms of gradients; 0 is none.
      trackers: that are told the metrics, too: "wandb", "mlflow".
      profile: the first and the last step of a trace, "10:13"; "" is none.
    """

    steps: Count
    batch_size: Count
    log_steps: Count
    checkpoint_steps: Count
    stall_seconds: Positive = 1800.0
    keep: Count = 2
    milestone_steps: Whole = 0
    most_skipped: Count = 10
    sample_steps: Whole = 0
    judge_steps: Whole = 0
    judged: Count = 64
    best: Count = 1
    histogram_steps: Whole = 0
    trackers: tuple[str, ...] = ()
    profile: str = ""

    def __post_init__(self) -> None:
        span_of(self.profile)
        check_known(self.trackers)
        for name in ("judge_steps", "milestone_steps"):
            every, saved = getattr(self, name), self.checkpoint_steps
            all_stay = name == "milestone_steps" and every and saved % every == 0
            if every % saved and not all_stay:
                raise InputError(
                    f"{name}={every} is no multiple of checkpoint_steps={saved}: what is judged, "
                    "or stays, is to be saved"
                )


# Draws a state, images by name, and says of a state how good its pictures are.
Draw: TypeAlias = Callable[[Any], Mapping[str, Any]]
Judge: TypeAlias = Callable[[Any], Figure]

# Make ready to draw, once some steps are done, and to judge so many captions.
Pictures: TypeAlias = Callable[[], Draw]
Judged: TypeAlias = Callable[[int], Judge]


@dataclasses.dataclass(frozen=True)
class Watched:
    """What may be said of a job beside its metrics.

    Attributes:
      work: what a step is, for the figures of speed.
      pictures: makes ready to draw its states; None where nobody can.
      judge: makes ready to judge them by so many pictures; None where nobody can.
      hparams: what it was asked for, by dotted key.
    """

    work: Work
    pictures: Pictures | None = None
    judge: Judged | None = None
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
    warn_of_overlap(found, steps, optimiser)
    return Descent(make_optimiser(found, steps, pooled=pooled), average, found.spike)


def rate_of(config: ConfigDict, optimiser: str, steps: int, pace: Pace = EACH_STEP) -> Rate:
    """The learning rate of a network of `descent_of`, by its `pace` of updates."""
    found = configs.section(config, optimiser, OptimiserConfig)
    return Rate(functools.partial(rate_at, found, steps), pace)


def run_job(
    name: str,
    folder: Path,
    job: JobConfig,
    *,
    step: Step,
    init: Callable[[], Any],
    abstract: Any,
    data: Position,
    watched: Watched | None = None,
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
      watched: what may be said of its steps; by default they are a batch of samples each.

    Returns the state after `job.steps` steps. Raises `Interrupted` after a signal, all saved, and
    Broken where updates had to be skipped too often: what is saved is finite.
    """
    goodput = Goodput()
    watched = watched or Watched(Work(samples=job.batch_size))
    speed = Speedometer(watched.work, goodput)
    place, best = folder / CHECKPOINTS, job.best if job.judge_steps else 0
    checkpoints = Checkpoints(place, keep=job.keep, milestone=job.milestone_steps, best=best)
    start = checkpoints.latest_step() or 0
    watch = watching(name, folder, job, start, speed, watched, checkpoints)
    alive = heartbeat(
        folder / HOSTS, jax.process_index(), stall_seconds=job.stall_seconds, start=start
    )
    put = counted("checkpoint", goodput, checkpoints.save)
    seen = Seen(data, most=job.log_steps + job.most_skipped)
    try:
        state = _restored(name, checkpoints, abstract, data) if start else init()
        with saying(name, checkpoints, seen, folder), watch as (logged, looks), alive as beat:

            def save(number: int, state: Any, *, wait: bool = False) -> None:
                logged.check(number)
                put(number, state, data.get_state(), wait=wait)

            keep = every(job.checkpoint_steps, lambda n, s, _: save(n, s), stop=job.steps)
            hooks: list[Hook] = [seen, beat, first_step(name), logged, *looks, keep]
            hooks.append(mirror.watching(folder))
            last = functools.partial(save, wait=True)
            span = {"start": start, "stop": job.steps}
            with goodput.during("step"):
                state = loop(step, state, Drawn(data, goodput), **span, hooks=hooks, save=last)
        checkpoints.keep_newest()
        return state
    finally:
        checkpoints.close()
        goodput.close()


def _restored(name: str, checkpoints: Checkpoints, abstract: Any, data: Position) -> Any:
    """The state of the newest checkpoint; the data goes to its position."""
    step = checkpoints.latest_step() or 0
    state, position = checkpoints.restore(step, abstract)
    data.set_state(position)
    log.info("%s goes on from step %d", name, step)
    return state


@contextlib.contextmanager
def watching(
    name: str,
    folder: Path,
    job: JobConfig,
    start: int,
    speed: Speedometer,
    watched: Watched,
    checkpoints: Checkpoints,
) -> Iterator[tuple[MetricsHook, list[Hook]]]:
    """The hook that writes a job's metrics, and those that show and look at its state."""
    judge = _judge(job, speed.goodput, watched)  # it may refuse
    bar = progress(name, start=start, stop=job.steps)
    with bar as shown, traced(folder / TRACE, span_of(job.profile), start=start) as trace:
        writer = _writer(name, folder, job, start, shown)
        try:
            if watched.hparams and not start:
                writer.write_hparams(watched.hparams)
            logged = MetricsHook(
                writer,
                steps=job.log_steps,
                stop=job.steps,
                most_skipped=job.most_skipped,
                more=speed,
            )
            looks = _looks(job, writer, speed.goodput, watched, judge, checkpoints)
            yield logged, [shown, trace, *looks]
        finally:
            writer.close()


def _judge(job: JobConfig, goodput: Goodput, watched: Watched) -> Judge | None:
    """What judges a state, where the job is to be judged."""
    if not job.judge_steps or not watched.judge:
        return None
    with goodput.during("evaluation"):
        return watched.judge(job.judged)


def _looks(
    job: JobConfig,
    writer: MetricWriter,
    goodput: Goodput,
    watched: Watched,
    judge: Judge | None,
    checkpoints: Checkpoints,
) -> list[Hook]:
    """The hooks that look at a state now and then: its pictures, their judge, its gradients."""

    def looking(look: Callable[[int, Any], object]) -> Hook:
        def hook(step: int, state: Any, metrics: Metrics) -> None:
            jax.block_until_ready(metrics)  # so that the step's seconds stay its own
            with goodput.during("evaluation"):
                look(step, state)

        return hook

    def now_and_then(steps: int, look: Callable[[int, Any], None]) -> Hook:
        return every(steps, looking(look), stop=job.steps)

    hooks: list[Hook] = []
    if job.sample_steps and watched.pictures:
        drawing = functools.cache(watched.pictures)
        # Not at the first: before the loop has ended it a signal ends the process, and it is lost.
        hooks.append(once(2, looking(lambda step, state: drawing())))
        show = lambda step, state: writer.write_images(step, drawing()(state))
        hooks.append(now_and_then(job.sample_steps, show))
    if judge is not None:

        def note(step: int, state: Any) -> None:
            figure = judge(state)
            log.info("step %d: %s", step, told([figure]))
            writer.write_scalars(step, {f"judge/{figure.title}": figure.value})
            checkpoints.judge(step, agreed(figure.merit))

        hooks.append(now_and_then(job.judge_steps, note))
    if job.histogram_steps:
        count = lambda step, state: writer.write_histograms(step, gradient_samples(state))
        hooks.append(now_and_then(job.histogram_steps, count))
    return hooks


def _writer(
    name: str, folder: Path, job: JobConfig, start: int, *others: MetricWriter
) -> MultiWriter:
    """Every process writes what its own devices say; the first one's folder is the job's."""
    own = folder / ("metrics" if is_first() else f"metrics-{jax.process_index()}")
    if is_first() and not start:
        for metrics in folder.glob("metrics*"):  # or the curves would begin twice
            shutil.rmtree(metrics)
    meet("nothing is left of another start")
    forget_after(own / CURVES, start)
    if is_first():
        title = f"{folder.parent.name}/{folder.name}"
        page = LivePage(folder / PAGE, name, job.steps, curves(folder))
        others = (*others, page, *open_trackers(job.trackers, title, own))
    return make_writer(own, *others)


class Seen:
    """A hook that remembers which samples the last `most` steps were trained on."""

    def __init__(self, data: Position, *, most: int) -> None:
        self._data = data
        self._steps: deque[tuple[int, Chosen]] = deque(maxlen=most)

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        self._steps.append((step, self._data.chosen()))

    def until(self, step: int) -> list[dict[str, Any]]:
        """The steps up to one, each with its batches: their bucket, and rows of prepare's cache."""
        return [
            {"step": at, "batches": [{"bucket": which, "rows": rows} for which, rows in chosen]}
            for at, chosen in self._steps
            if at <= step
        ]


@contextlib.contextmanager
def saying(name: str, checkpoints: Checkpoints, seen: Seen, folder: Path) -> Iterator[None]:
    """Numbers that broke are told with the job's name, what there is from before, and the data."""
    try:
        yield
    except Broken as error:
        saved = checkpoints.latest_step()
        where = f"the last save is of step {saved}" if saved else "nothing was saved before"
        file = folder / HOSTS / BATCHES
        if is_first():
            write_json(file, seen.until(error.step))
        said = f"{name}: {error}; {where}; the samples of the last steps are told in {file}"
        raise Broken(error.step, said) from error


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
            said = "%s: first step %.1f s after the command, itself %.1f s, on %d x %s"
            log.info(said, name, *times, jax.device_count(), jax.devices()[0].device_kind)

    return hook


def show_parameters(params: Params) -> None:
    """Logs the table of parameters at the start of a job."""
    log.info("\n%s", parameter_overview.get_parameter_overview(params, include_stats=False))


def forget_after(path: Path, step: int) -> None:
    """Takes records of later steps out of a file of metrics: they are made again."""
    kept = [record for record in records(path) if record.get("step", 0) <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    if path.exists() and path.read_text(errors="replace") != text:
        draft = path.with_suffix(".tmp")
        draft.write_text(text)
        draft.replace(path)


def curves(folder: Path) -> list[dict[str, Any]]:
    """The scalars that a job wrote, those of all processes in one record per interval, by step."""
    others: dict[Any, dict[str, Any]] = {}
    for place in sorted(folder.glob("metrics-*")):
        for record in records(place / CURVES):
            others[record.get("step")] = record | others.get(record.get("step"), {})
    own = records(folder / "metrics" / CURVES)
    return [others.get(record.get("step"), {}) | record for record in own]
