"""What a training job carries from step to step: arrays only, nothing frozen, no random keys."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from flashjax.train.average import AverageConfig, averaged, decay_at
from flashjax.types import Cond, Metrics, Params, Tokens

SETTLED = 20  # updates before the mean norm of a network's gradients says anything
FORGET = 0.05  # share of that mean that an update replaces


@flax.struct.dataclass
class Tally:
    """What a network's updates came to: scalars.

    `updates` that were made, `skipped` ones in all and `in_row`, and the running mean `norm` of
    the gradients.
    """

    updates: Array
    skipped: Array
    in_row: Array
    norm: Array


@flax.struct.dataclass
class Learner:
    """One network under training: its weights, its optimiser's memory, its averaged weights.

    Networks that hand on no average have none.
    """

    params: Params
    opt: optax.OptState
    ema: Params | None
    tally: Tally


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


@dataclasses.dataclass(frozen=True)
class Descent:
    """How a network goes down its gradient: the optimiser, and the average that it hands on.

    A gradient of more than `spike` times the mean norm is skipped; 0: whatever its norm is.
    """

    tx: optax.GradientTransformation
    average: AverageConfig | None = None
    spike: float = 0.0

    def start(self, params: Params) -> Learner:
        """A learner at its first step; the average starts at the weights (a copy: both move)."""
        copy = None if self.average is None else jax.tree.map(jnp.copy, params)
        counts = {name: jnp.zeros((), jnp.int32) for name in ("updates", "skipped", "in_row")}
        tally = Tally(**counts, norm=jnp.zeros(()))
        return Learner(params=params, opt=self.tx.init(params), ema=copy, tally=tally)


def init_state(params: Params, descent: Descent) -> TrainState:
    """The state of a job that trains one network."""
    return TrainState(step=jnp.zeros((), jnp.int32), learner=descent.start(params))


def descend(
    name: str, learner: Learner, grads: Params, metrics: Metrics, descent: Descent
) -> tuple[Learner, Metrics]:
    """One update of the network `name` and of its average, and the metrics with its figures.

    Where a gradient, or a loss "name/…loss" among the metrics, is not finite or spikes, nothing of
    the learner moves but its tally.
    """
    norm = optax.tree.norm(grads)
    own = f"{name}/"
    losses = [value for key, value in metrics.items() if key.startswith(own) and "loss" in key]
    sound = jnp.isfinite(sum(losses, norm))
    tally = learner.tally
    if descent.spike:
        sound &= (norm <= descent.spike * tally.norm) | (tally.updates < SETTLED)

    updates, opt = descent.tx.update(grads, learner.opt, learner.params)
    params = optax.apply_updates(learner.params, updates)
    ema = None
    if descent.average is not None:
        ema = averaged(learner.ema, params, decay_at(descent.average, tally.updates))
    mean = tally.norm + jnp.where(tally.updates, FORGET, 1.0) * (norm - tally.norm)
    moved, stayed = (params, opt, ema, mean), (learner.params, learner.opt, learner.ema, tally.norm)
    params, opt, ema, mean = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old), moved, stayed
    )
    tally = Tally(
        updates=tally.updates + sound,
        skipped=tally.skipped + ~sound,
        in_row=jnp.where(sound, 0, tally.in_row + 1),
        norm=mean,
    )
    figures = {"grad_norm": norm, "skipped": tally.skipped, "skipped_in_row": tally.in_row}
    told = {own + key: jnp.asarray(value, jnp.float32) for key, value in figures.items()}
    return Learner(params=params, opt=opt, ema=ema, tally=tally), metrics | told
