"""`guide`: trajectory guidance, from the teacher to a student that can be matched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax import trees
from flashjax.checkpoint import save_params
from flashjax.parallel.sharding import abstract_on
from flashjax.stages.setting import Setting, open_setting, state_layout
from flashjax.stages.stage import run_stage
from flashjax.stages.training import JobConfig, run_job, show_parameters
from flashjax.train.guide import GuideConfig, make_guide_step
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import TrainState, init_state
from flashjax.types import Metrics, Params


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the student on the teacher's multi-step integrals; keeps its averaged weights."""

    def body(folder: Path) -> dict[str, Any]:
        job = configs.section(config, "guide.job", JobConfig)
        setting = open_setting(config, workdir, mesh=config.mesh)
        step, init = make_step(config, setting)
        key = jax.random.key(config.seed)
        abstract = jax.eval_shape(init, setting.frozen.teacher)
        shardings = state_layout(abstract, setting.mesh)
        advance = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        show_parameters(abstract.learner.params)
        state = run_job(
            "guide",
            folder,
            job,
            step=lambda state, batch: advance(state, setting.frozen, batch, key),
            init=lambda: jax.jit(init, out_shardings=shardings)(setting.frozen.teacher),
            abstract=abstract_on(abstract, shardings),
            data=setting.batches(job.batch_size, seed=config.seed),
        )
        save_params(folder / "params", state.learner.ema)
        return {"steps": job.steps, "samples": job.steps * job.batch_size}

    return run_stage(
        "guide",
        {**config.guide, "mesh": config.mesh, "student": config.student},
        workdir,
        body,
        inputs={"prepare": workdir / "prepare"},
        seed=config.seed,
    )


def make_step(
    config: ConfigDict, setting: Setting
) -> tuple[Callable[..., tuple[TrainState, Metrics]], Callable[[Params], TrainState]]:
    """The step of guidance and `init(teacher)`: the student starts as the teacher, in fp32."""
    optimiser = configs.section(config, "guide.optimiser", OptimiserConfig)
    tx = make_optimiser(optimiser, config.guide.job.steps)
    guide = configs.section(config, "guide.guide", GuideConfig)
    nets = setting.nets

    def init(teacher: Params) -> TrainState:
        return init_state(trees.cast(teacher, jnp.float32), tx)

    return make_guide_step(nets.velocity, nets.text, tx, guide, setting.sigmas), init
