"""`match`: distribution matching with timestep sharing and adversarial heads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import load_params, save_params
from flashjax.data.remote.fetch import fetched
from flashjax.models.halved import told, with_half
from flashjax.parallel.prepared import Prepared
from flashjax.parallel.sharding import abstract_on
from flashjax.stages.costs import match_step_flops
from flashjax.stages.distil import Method, distil
from flashjax.stages.model import PARAMS, student_of, teacher_of
from flashjax.stages.probing import make_probing, probed
from flashjax.stages.registry import SEEING, check_unseen
from flashjax.stages.setting import Setting, masters, open_setting, state_layout
from flashjax.stages.training import descent_of, rate_of
from flashjax.train.average import AverageConfig
from flashjax.train.match import MatchConfig, make_critic_step, make_student_step
from flashjax.train.optim import restarted
from flashjax.train.probe import UNPROBED
from flashjax.train.speed import Pace, Rate
from flashjax.train.state import Frozen, Learner, MatchState
from flashjax.types import Batch, InputError, Metrics, Params

Advance = Callable[..., tuple[MatchState, Metrics]]
Critic = dict[str, dict[str, Any]]  # {"fake", "heads"}, each {"params", "opt"}

CRITIC = "critic"  # the folder of what `split` goes on with


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return {**config.match, "mesh": config.mesh, "student": config.student}


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Matches the student's distribution to the teacher's.

    Keeps the student's averaged weights, and its critic.
    """

    def keep(folder: Path, state: MatchState, setting: Setting) -> None:
        del setting
        save_params(folder / PARAMS, state.student.ema)
        save_params(folder / CRITIC / PARAMS, critic_of(state))

    return distil(
        "match",
        config,
        workdir,
        section=section_of(config),
        inputs={"guide": workdir / "guide"} | prompts_input(config),
        setting=lambda: open_setting(config, workdir, mesh=config.mesh, prompts=prompts_of(config)),
        method=lambda setting: matched(config, workdir, setting),
        keep=keep,
    )


def matched(config: ConfigDict, workdir: Path, setting: Setting) -> Method:
    """The method of matching: the guided student; its fake score begins as the teacher."""
    student_step, critic_step, init = make_steps(config, "match", setting)
    network = masters(setting.frozen.teacher)
    key = jax.random.key(config.seed)
    abstract = jax.eval_shape(init, network, network, key)
    shardings = state_layout(abstract, setting.mesh)

    def begin(frozen: Frozen) -> MatchState:
        del frozen  # its teacher may be stored in less
        student = student_of(workdir, "guide", setting.mesh)
        fake = teacher_of(workdir, setting.mesh)
        return jax.jit(init, out_shardings=shardings)(student, fake, key)

    student_step, critic_step = (
        Prepared(jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)))
        for step in (student_step, critic_step)
    )
    alone, every = alone_of(config), config.match.get("probe_steps", 0)
    advance = alternate(student_step, critic_step, alone=alone)
    if every:
        steps = len(setting.sigmas) - 1
        advance = probed(advance, make_probing(config, setting), every=every, steps=steps)
    return Method(
        abstract=abstract_on(abstract, shardings),
        begin=begin,
        advance=advance,
        steps=(critic_step, student_step),
        average=lambda state: told(state.student.ema, halved=False),
        draws=config.match.critic_updates + 1,
        flops=match_step_flops(config, "match", setting, [(0, config.student.steps)]),
        rates=rates_of(config, "match"),
    )


def alone_of(config: ConfigDict) -> int:
    """The first steps of matching, in which the critic alone is trained. InputError for all."""
    alone, steps = config.match.get("warmup_steps", 0), config.match.job.steps
    if alone >= steps:
        raise InputError(
            f"match.warmup_steps={alone} leaves none of match.job.steps={steps} to the student: "
            f"give fewer"
        )
    return alone


def rates_of(config: ConfigDict, section: str) -> dict[str, Rate]:
    """The learning rates of the student and its critic, of a job of `match` or `split`."""
    alone = alone_of(config) if section == "match" else 0
    updates, (student, critic) = config.match.critic_updates, updates_of(config, section)
    rates = {
        name: rate_of(config, f"{section}.{name}_optimiser", critic, Pace(updates, alone, 1))
        for name in ("fake", "heads")
    }
    paced = Pace(1, alone, -1)
    return {"student": rate_of(config, f"{section}.student_optimiser", student, paced)} | rates


def updates_of(config: ConfigDict, section: str) -> tuple[int, int]:
    """All updates of the student and of its critic, which has the first steps for itself."""
    steps, alone = config[section].job.steps, alone_of(config) if section == "match" else 0
    return steps - alone, steps * config.match.critic_updates + alone


def prompts_of(config: ConfigDict) -> str:
    """The file of captions that matching trains on without pictures, or "" for none.

    InputError if the heads would want pictures.
    """
    prompts = config.match.get("prompts", "")
    for name in SEEING:
        weight = config.match.match.get(name, 0)
        if prompts and weight:
            raise InputError(
                f"match.prompts={prompts} has no pictures for the heads, but "
                f"match.match.{name}={weight}: set it to 0"
            )
    return prompts


def matching_of(config: ConfigDict, section: str) -> MatchConfig:
    """The losses of `match` for a config section's steps. InputError where they do not fit."""
    match, steps = configs.section(config, "match.match", MatchConfig), config.student.steps
    alone_of(config)
    if match.halved and steps % 2:
        raise InputError(
            f"match.match.halved={match.halved}: student.steps={steps} has no half: set it to 0, "
            f"or give an even number of steps"
        )
    if match.through and steps < 2:
        raise InputError(
            f"match.match.through=True: student.steps={steps} has no later steps: leave it out"
        )
    if match.through and section != "match":
        raise InputError(
            "match.match.through=True goes through all steps: it has no branches to split"
        )
    if match.through and config.match.get("probe_steps", 0):
        raise InputError(f"match.probe_steps={config.match.probe_steps}: {UNPROBED}; set it to 0")
    return match


def check_levels(match: MatchConfig, sigmas: np.ndarray) -> None:
    """InputError where scores would be compared beyond the step whose sample they judge."""
    low, high = match.renoise
    if match.level == "interval" and len(sigmas) > 2 and high <= sigmas[1]:
        raise InputError(
            f"match.match.renoise={match.renoise}: the student's grid goes to {sigmas[1]:.4g} in "
            f"its first step, and its interval ends at {high}: set renoise=({low},X), X above that"
        )
    lines = sigmas[:-1] if match.last == "share" else sigmas[:-2]  # the last one is re-noised
    if match.level == "line" and len(lines) and low >= lines[-1]:
        raise InputError(
            f"match.match.renoise={match.renoise}: a step of the student begins at "
            f"{lines[-1]:.4g}, and its line at {low}: set renoise=(X,{high}), X below that"
        )


def prompts_input(config: ConfigDict) -> dict[str, Path]:
    """That file as an input of a stage, if there is one."""
    prompts = prompts_of(config)
    return {"prompts": fetched(prompts)} if prompts else {}


def make_steps(
    config: ConfigDict, section: str, setting: Setting
) -> tuple[Advance, Advance, Callable[..., MatchState]]:
    """The student's step, the critic's step and `init(student, fake, key)` of a config section.

    The losses are those of the `match` section; lengths, rates and averages come from `section`.
    `init` may be given a `critic`, to go on with instead.
    """
    match = matching_of(config, section)
    average = configs.section(config, f"{section}.average", AverageConfig)
    updates, critic_steps = updates_of(config, section)
    student_descent = descent_of(config, f"{section}.student_optimiser", updates, average)
    fake_descent = descent_of(config, f"{section}.fake_optimiser", critic_steps)
    heads_descent = descent_of(config, f"{section}.heads_optimiser", critic_steps, pooled=True)
    if not any(bucket.pictures for bucket in setting.samples):
        check_unseen(vars(match))
    nets, sigmas = setting.nets, setting.sigmas
    check_levels(match, np.asarray(sigmas))

    def init(
        student: Params, fake: Params, key: jax.Array, critic: Critic | None = None
    ) -> MatchState:
        learners = {
            "fake": fake_descent.start(fake),
            "heads": heads_descent.start(nets.init_heads(key)),
        }
        if critic is not None:
            learners = {name: went_on(learners[name], **critic[name]) for name in learners}
        learners["student"] = student_descent.start(with_half(student) if match.told else student)
        return MatchState(step=jnp.zeros((), jnp.int32), **learners)

    return (
        make_student_step(nets, student_descent, match, sigmas),
        make_critic_step(nets, fake_descent, heads_descent, match, sigmas),
        init,
    )


def critic_of(state: MatchState) -> Critic:
    """What is handed on of the critic: weights, and what the optimiser remembers."""
    learners = {"fake": state.fake, "heads": state.heads}
    return {name: {"params": one.params, "opt": one.opt} for name, one in learners.items()}


def went_on(new: Learner, *, params: Params, opt: Any) -> Learner:
    """A learner with the weights and the memory of one that was trained before."""
    return Learner(params=params, opt=restarted(opt), ema=new.ema, tally=new.tally)


def read_critic(workdir: Path, abstract: MatchState, mesh: Mesh) -> Critic:
    """The critic that `match` trained, on `mesh`; `abstract` is the state of one student."""
    wanted = critic_of(abstract_on(abstract, state_layout(abstract, mesh)))
    return load_params(workdir / "match" / CRITIC / PARAMS, wanted)


def alternate(student_step: Advance, critic_step: Advance, *, alone: int = 0) -> Advance:
    """One outer step on the host: a critic step on each batch but the last, one student step on it.

    Every update sees captions and pictures of its own. In the first `alone` steps the critic has
    the last batch, too, and the student stays.
    """
    done: int | None = None if alone else 0

    def outer(
        state: MatchState, frozen: Frozen, batches: tuple[Batch, ...], key: jax.Array
    ) -> tuple[MatchState, Metrics]:
        nonlocal done
        done = int(state.step) // len(batches) if done is None else done
        done += 1
        metrics: Metrics = {}
        *others, last = batches
        for batch in others:
            state, metrics = critic_step(state, frozen, batch, key)
        if done <= alone:
            return critic_step(state, frozen, last, key)
        state, more = student_step(state, frozen, last, key)
        return state, metrics | more

    return outer
