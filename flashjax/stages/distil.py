"""The sentence that `guide`, `match` and `split` say: open, lay out, train, keep the averages.

The steps are compiled while weights are read: neither knows of the other.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.data.pipeline import Together
from flashjax.evaluate.judge import Figure
from flashjax.parallel.peak import device_peak
from flashjax.parallel.prepared import Prepared
from flashjax.stages.compute import compute_of
from flashjax.stages.identity import code_named, leaves
from flashjax.stages.model import MODEL
from flashjax.stages.setting import Setting, read_setting
from flashjax.stages.stage import run_stage, steps_saved
from flashjax.stages.training import JobConfig, Watched, run_job, show_parameters
from flashjax.stages.watching import fixed_prompts, judging, sampled
from flashjax.train.speed import Rate, Work
from flashjax.train.state import Frozen
from flashjax.train.trackers import check_trackers
from flashjax.types import Params, listed

DATA_AND_JUDGES = ("data", "evaluate")  # sections whose code makes no step

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Method:
    """What a stage trains, and how.

    Attributes:
      abstract: shapes, dtypes and shardings of the state.
      begin: `begin(frozen)`, the first state. What else it is made of is read there, and does not
        stay.
      advance: `advance(state, frozen, batches, key) -> (state, metrics)`.
      steps: what it calls, each on one of the batches, the first one first.
      average: `average(state)`: the weights that are kept.
      draws: batches of a step.
      flops: operations of a step, by the method, on all devices together.
      rates: learning rates by network.
    """

    abstract: Any
    begin: Callable[[Frozen], Any]
    advance: Callable[..., tuple[Any, Any]]
    steps: Sequence[Prepared]
    average: Callable[[Any], Params]
    draws: int = 1
    flops: float = 0.0
    rates: Mapping[str, Rate] = dataclasses.field(default_factory=dict)


def distil(
    name: str,
    config: ConfigDict,
    workdir: Path,
    *,
    section: Mapping[str, Any],
    inputs: Mapping[str, Path],
    setting: Callable[[], Setting],
    method: Callable[[Setting], Method],
    keep: Callable[[Path, Any, Setting], None],
    folder: str = "",
    results: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs the stage `name`, whose job is config.NAME.job, in the folder `folder` or its own.

    `section` is all of the config that it depends on; `keep(folder, state, setting)` writes what
    comes after the last step; `results` are kept beside what was counted. `setting` is of shapes.
    """

    def body(path: Path) -> dict[str, Any]:
        job = configs.section(config, f"{name}.job", JobConfig)
        check_asked(job, config, workdir)
        shapes = setting()
        trained = with_origin(method(shapes), name, config, workdir)
        key = jax.random.key(config.seed)
        if max(steps_saved(path), default=0) < job.steps:
            compile_ahead(trained, shapes, job.batch_size, key)
        show_parameters(trained.average(trained.abstract))
        opened = read_setting(config, workdir, shapes)

        def pictures() -> Callable[[Any], Mapping[str, Any]]:
            draw = sampled(config, workdir, opened)
            return lambda state: draw(trained.average(state))

        def judge(count: int) -> Callable[[Any], Figure]:
            say = judging(config, workdir, opened, count)
            return lambda state: say(trained.average(state))

        batches = opened.batches(job.batch_size, seed=config.seed)
        state = run_job(
            name,
            path,
            job,
            step=lambda state, drawn: trained.advance(state, opened.frozen, drawn, key),
            init=lambda: trained.begin(opened.frozen),
            abstract=trained.abstract,
            data=Together(batches, trained.draws),
            watched=Watched(
                Work(job.batch_size * trained.draws, trained.flops, trained.rates),
                pictures,
                judge,
                leaves(configs.to_dict(section)),
            ),
        )
        keep(path, state, opened)
        samples = job.steps * job.batch_size * trained.draws
        return {"steps": job.steps, "samples": samples, **(results or {})}

    whole = {**section, "compute": dataclasses.asdict(compute_of(config))}
    return run_stage(folder or name, whole, workdir, body, inputs=inputs, seed=config.seed)


def check_asked(job: JobConfig, config: ConfigDict, workdir: Path) -> None:
    """InputError for trackers that are not there, and for pictures where no caption can be drawn.

    What else may refuse to draw reads weights, and does so after the second step.
    """
    check_trackers(job.trackers)
    if job.sample_steps:
        fixed_prompts(config, workdir, 1)


def with_origin(method: Method, name: str, config: ConfigDict, workdir: Path) -> Method:
    """The method, its steps told what they are made of: the config, and the model's description.

    Nothing is told where a method is somebody's own code: what that imports is not known, so that
    its programs are traced at every start.
    """
    whole = configs.to_dict(config)
    own = code_named({key: part for key, part in whole.items() if key not in DATA_AND_JUDGES})
    if own:
        said = "%s: its steps are traced at every start, for code of yours: %s"
        log.info(said, name, listed(own))
        return method
    model = workdir / "import" / MODEL
    described = model.read_text() if model.exists() else ""
    for number, step in enumerate(method.steps):
        step.comes_from("\0".join([name, str(number), configs.to_json(config), described]))
    return method


def compile_ahead(method: Method, shapes: Setting, batch_size: int, key: jax.Array) -> None:
    """Begins to compile the steps of a method; what reads weights goes on meanwhile."""
    device_peak()  # a CPU's is measured, and kept: now, while no thread compiles
    batch = shapes.abstract_batch(batch_size)
    for step in method.steps:
        step.prepare(method.abstract, shapes.frozen, batch, key)
