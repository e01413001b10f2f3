"""What a training job carries from step to step: arrays only, nothing frozen, no random keys."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from flashjax.types import Cond, Params, Tokens


@flax.struct.dataclass
class Learner:
    """One network under training: its weights, its optimiser's memory, its averaged weights."""

    params: Params
    opt: optax.OptState
    ema: Params


@flax.struct.dataclass
class TrainState:
    """A single network under training; `step` counts finished steps."""

    step: Array
    learner: Learner


@flax.struct.dataclass
class MatchState:
    """Distribution matching: the student against its critic (fake score and heads).

    `step` counts finished steps of both kinds, so that no two of them share a random key.
    """

    step: Array
    student: Learner
    fake: Learner
    heads: Learner


@flax.struct.dataclass
class Frozen:
    """What a distillation step reads and never changes.

    `span` is int32 (first step, number of steps): the steps that are learnt. Where it does not
    begin at 0, the steps before it are taken by the frozen `student`; else there is none.
    """

    teacher: Params
    student: Params | None
    text: Params
    empty: Tokens | Cond
    span: Array


def init_learner(params: Params, tx: optax.GradientTransformation) -> Learner:
    """A learner at its first step; the average starts at the weights (a copy, so both may move)."""
    return Learner(params=params, opt=tx.init(params), ema=jax.tree.map(jnp.copy, params))


def init_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
    """The state of a job that trains one network."""
    return TrainState(step=jnp.zeros((), jnp.int32), learner=init_learner(params, tx))


def descend(
    learner: Learner, grads: Params, tx: optax.GradientTransformation, *, ema_decay: float
) -> Learner:
    """One optimiser update, then `ema <- decay * ema + (1 - decay) * params`."""
    updates, opt = tx.update(grads, learner.opt, learner.params)
    params = optax.apply_updates(learner.params, updates)
    ema = optax.incremental_update(params, learner.ema, 1.0 - ema_decay)
    return Learner(params=params, opt=opt, ema=ema)
