"""The sentence that `guide`, `match` and `split` say: open, lay out, train, keep the averages."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import save_params
from flashjax.parallel.sharding import abstract_on
from flashjax.stages.setting import Setting, compute_of
from flashjax.stages.stage import run_stage
from flashjax.stages.training import JobConfig, run_job, show_parameters
from flashjax.types import Params


@dataclasses.dataclass(frozen=True)
class Method:
    """What a stage trains, and how.

    Attributes:
      init: `init(*start) -> state`.
      start: trees on the mesh that the state begins with.
      shardings: those of the state.
      advance: `advance(state, frozen, batch, key) -> (state, metrics)`, jitted.
      average: `average(state)`: the weights that are kept.
    """

    init: Callable[..., Any]
    start: tuple[Any, ...]
    shardings: Any
    advance: Callable[..., tuple[Any, Any]]
    average: Callable[[Any], Params]


def distil(
    name: str,
    config: ConfigDict,
    workdir: Path,
    *,
    section: Mapping[str, Any],
    inputs: Mapping[str, Path],
    setting: Callable[[], Setting],
    method: Callable[[Setting], Method],
    folder: str = "",
    keep: Callable[[Path, Params, Setting], None] | None = None,
    results: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs the stage `name`, whose job is config.NAME.job, in the folder `folder` or its own.

    `section` is all of the config that it depends on; `keep(folder, average, setting)` writes the
    averaged weights, by default as one student; `results` are kept beside what was counted.
    """

    def body(path: Path) -> dict[str, Any]:
        job = configs.section(config, f"{name}.job", JobConfig)
        opened = setting()
        trained = method(opened)
        key = jax.random.key(config.seed)
        abstract = jax.eval_shape(trained.init, *trained.start)
        show_parameters(trained.average(abstract))
        state = run_job(
            name,
            path,
            job,
            step=lambda state, batch: trained.advance(state, opened.frozen, batch, key),
            init=lambda: jax.jit(trained.init, out_shardings=trained.shardings)(*trained.start),
            abstract=abstract_on(abstract, trained.shardings),
            data=opened.batches(job.batch_size, seed=config.seed),
        )
        (keep or keep_student)(path, trained.average(state), opened)
        counted = {"steps": job.steps, "samples": job.steps * job.batch_size}
        return counted | dict(results or {})

    whole = {**section, "compute": dataclasses.asdict(compute_of(config))}
    return run_stage(folder or name, whole, workdir, body, inputs=inputs, seed=config.seed)


def keep_student(folder: Path, average: Params, setting: Setting) -> None:
    """Writes the averaged weights of one student."""
    del setting
    save_params(folder / "params", average)
