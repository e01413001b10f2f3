"""`guide`: trajectory guidance, from the teacher to a student that can be matched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import save_params
from flashjax.parallel.prepared import Prepared
from flashjax.parallel.sharding import abstract_on
from flashjax.stages.costs import guide_step_flops
from flashjax.stages.distil import Method, distil
from flashjax.stages.model import teacher_of
from flashjax.stages.setting import Setting, masters, open_setting, state_layout
from flashjax.stages.training import descent_of, rate_of
from flashjax.train.average import AverageConfig
from flashjax.train.guide import GuideConfig, make_guide_step
from flashjax.train.state import Frozen, TrainState, init_state
from flashjax.types import Batch, Metrics, Params


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return {**config.guide, "mesh": config.mesh, "student": config.student}


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the student on the teacher's multi-step integrals; keeps its averaged weights."""

    return distil(
        "guide",
        config,
        workdir,
        section=section_of(config),
        inputs={"prepare": workdir / "prepare"},
        setting=lambda: open_setting(config, workdir, mesh=config.mesh),
        method=lambda setting: guided(config, workdir, setting),
        keep=lambda folder, state, _: save_params(folder / "params", state.learner.ema),
    )


def guided(config: ConfigDict, workdir: Path, setting: Setting) -> Method:
    """The method of guidance: one student, which starts as the imported teacher."""
    step, init = make_step(config, setting)
    abstract = jax.eval_shape(init, masters(setting.frozen.teacher))
    shardings = state_layout(abstract, setting.mesh)
    prepared = Prepared(jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)))

    def begin(frozen: Frozen) -> TrainState:
        del frozen  # its teacher may be stored in less
        teacher = teacher_of(workdir, setting.mesh)
        return jax.jit(init, out_shardings=shardings)(teacher)

    def advance(
        state: TrainState, frozen: Frozen, batches: tuple[Batch, ...], key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        (batch,) = batches
        return prepared(state, frozen, batch, key)

    laid_out = abstract_on(abstract, shardings)
    return Method(
        laid_out,
        begin,
        advance,
        (prepared,),
        lambda state: state.learner.ema,
        flops=guide_step_flops(config, setting),
        rates={"student": rate_of(config, "guide.optimiser", config.guide.job.steps)},
    )


def make_step(
    config: ConfigDict, setting: Setting
) -> tuple[Callable[..., tuple[TrainState, Metrics]], Callable[[Params], TrainState]]:
    """The step of guidance and `init(teacher)`: the student starts as the imported teacher."""
    average = configs.section(config, "guide.average", AverageConfig)
    descent = descent_of(config, "guide.optimiser", config.guide.job.steps, average)
    guide = configs.section(config, "guide.guide", GuideConfig)
    nets = setting.nets

    def init(teacher: Params) -> TrainState:
        return init_state(teacher, descent)

    return make_guide_step(nets.velocity, nets.text, descent, guide, setting.sigmas), init
