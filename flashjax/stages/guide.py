"""`guide`: trajectory guidance, from the teacher to a student that can be matched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax import trees
from flashjax.stages.distil import Method, distil
from flashjax.stages.setting import Setting, open_setting, state_layout
from flashjax.train.guide import GuideConfig, make_guide_step
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import TrainState, init_state
from flashjax.types import Metrics, Params


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the student on the teacher's multi-step integrals; keeps its averaged weights."""

    def method(setting: Setting) -> Method:
        step, init = make_step(config, setting)
        start = (setting.frozen.teacher,)
        shardings = state_layout(jax.eval_shape(init, *start), setting.mesh)
        advance = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        return Method(init, start, shardings, advance, lambda state: state.learner.ema)

    return distil(
        "guide",
        config,
        workdir,
        section={**config.guide, "mesh": config.mesh, "student": config.student},
        inputs={"prepare": workdir / "prepare"},
        setting=lambda: open_setting(config, workdir, mesh=config.mesh),
        method=method,
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
