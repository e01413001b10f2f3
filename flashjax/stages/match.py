"""`match`: distribution matching with timestep sharing and adversarial heads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax import trees
from flashjax.stages.distil import Method, distil
from flashjax.stages.model import student_of
from flashjax.stages.registry import NO_PICTURES
from flashjax.stages.setting import Setting, open_setting, state_layout
from flashjax.train.match import MatchConfig, make_critic_step, make_student_step
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import Frozen, MatchState, init_learner
from flashjax.types import Batch, InputError, Metrics, Params

Advance = Callable[..., tuple[MatchState, Metrics]]


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Matches the student's distribution to the teacher's; keeps its averaged weights."""

    def method(setting: Setting) -> Method:
        student_step, critic_step, init = make_steps(config, "match", setting)
        student = student_of(workdir, "guide", setting.mesh)
        start = (student, setting.frozen.teacher, jax.random.key(config.seed))
        shardings = state_layout(jax.eval_shape(init, *start), setting.mesh)

        def jitted(step: Advance) -> Advance:
            return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))

        steps = jitted(student_step), jitted(critic_step)
        advance = alternate(*steps, config.match.critic_updates)
        return Method(init, start, shardings, advance, lambda state: state.student.ema)

    return distil(
        "match",
        config,
        workdir,
        section={**config.match, "mesh": config.mesh, "student": config.student},
        inputs={"guide": workdir / "guide"} | prompts_input(config),
        setting=lambda: open_setting(config, workdir, mesh=config.mesh, prompts=prompts_of(config)),
        method=method,
    )


def prompts_of(config: ConfigDict) -> str:
    """The file of captions that matching trains on without pictures, or "" for none.

    InputError if the heads would want pictures.
    """
    prompts = config.match.get("prompts", "")
    weight = config.match.match.adversarial_weight
    if prompts and weight:
        raise InputError(
            f"match.prompts={prompts} has no pictures for the heads, but "
            f"match.match.adversarial_weight={weight}: set it to 0"
        )
    return prompts


def prompts_input(config: ConfigDict) -> dict[str, Path]:
    """That file as an input of a stage, if there is one."""
    prompts = prompts_of(config)
    return {"prompts": Path(prompts)} if prompts else {}


def make_steps(
    config: ConfigDict, section: str, setting: Setting
) -> tuple[Advance, Advance, Callable[..., MatchState]]:
    """The student's step, the critic's step and `init(student, fake, key)` of a config section.

    The losses are those of the `match` section; lengths and rates come from `section`.
    """
    steps = config[section].job.steps
    match = configs.section(config, "match.match", MatchConfig)

    def optimiser(name: str, steps: int) -> optax.GradientTransformation:
        return make_optimiser(configs.section(config, f"{section}.{name}", OptimiserConfig), steps)

    student_tx = optimiser("student_optimiser", steps)
    critic_steps = steps * config.match.critic_updates
    fake_tx, heads_tx = (
        optimiser(name, critic_steps) for name in ("fake_optimiser", "heads_optimiser")
    )
    if match.adversarial_weight and not any(bucket.pictures for bucket in setting.samples):
        raise InputError(NO_PICTURES.format(weight=match.adversarial_weight))
    nets, sigmas = setting.nets, setting.sigmas

    def init(student: Params, fake: Params, key: jax.Array) -> MatchState:
        student, fake = trees.cast((student, fake), jnp.float32)  # a teacher may be stored in less
        return MatchState(
            step=jnp.zeros((), jnp.int32),
            student=init_learner(student, student_tx),
            fake=init_learner(fake, fake_tx),
            heads=init_learner(nets.init_heads(key), heads_tx),
        )

    return (
        make_student_step(nets, student_tx, match, sigmas),
        make_critic_step(nets, fake_tx, heads_tx, match, sigmas),
        init,
    )


def alternate(student_step: Advance, critic_step: Advance, critic_updates: int) -> Advance:
    """One outer step on the host: `critic_updates` critic steps, then one student step."""

    def outer(
        state: MatchState, frozen: Frozen, batch: Batch, key: jax.Array
    ) -> tuple[MatchState, Metrics]:
        metrics: Metrics = {}
        for _ in range(critic_updates):
            state, metrics = critic_step(state, frozen, batch, key)
        state, more = student_step(state, frozen, batch, key)
        return state, metrics | more

    return outer
