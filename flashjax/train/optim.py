"""Optimisers: AdamW with warm-up, clipping, and parameters that stay frozen by path."""

import dataclasses
import logging
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from flashjax.types import Decay, Params, Positive, Weight, Whole

log = logging.getLogger(__name__)

FROZEN = r"(.*/)?position"  # the position table is data of the checkpoint, not a weight


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """AdamW: warm-up, a constant rate, and a cosine over the last `decay_steps` of `steps`.

    Where both do not fit the cosine wins. Gradients of more than `spike` times their mean norm are
    skipped; 0: none is.
    """

    learning_rate: Positive  # after the warm-up
    warmup_steps: Whole = 0  # over which the rate rises from 0
    decay_steps: Whole = 0  # the last, over which it falls to 1 % along a cosine
    beta1: Decay = 0.9  # decay of the first moment; at 0 none is stored
    beta2: Decay = 0.999  # decay of the second moment
    weight_decay: Weight = 0.0  # decoupled, times the rate
    clip_norm: Positive = 1.0  # of all gradients of a network together
    spike: Weight = 0.0  # a gradient of more than so many mean norms is skipped; 0: none is


def schedule(config: OptimiserConfig, steps: int) -> optax.Schedule:
    """The learning rate of a job of `steps`: it ends at 1 % of the constant rate if it decays."""
    rate = config.learning_rate
    warm = optax.constant_schedule(rate)
    if config.warmup_steps:  # optax takes a ramp of no steps for the constant 0
        warm = optax.warmup_constant_schedule(0.0, rate, config.warmup_steps)
    if not config.decay_steps:
        return warm
    decay = optax.cosine_decay_schedule(rate, config.decay_steps, alpha=0.01)
    return optax.join_schedules([warm, decay], [steps - config.decay_steps])


def warn_of_overlap(config: OptimiserConfig, steps: int, name: str) -> None:
    """A line where a job of `steps` is too short for the warm-up and the decay of `name`."""
    if config.decay_steps and config.warmup_steps + config.decay_steps > steps:
        log.warning(
            "%s: warmup_steps=%d and decay_steps=%d are more than %d steps: the decay begins at "
            "step %d, whatever is left of the warm-up",
            name,
            config.warmup_steps,
            config.decay_steps,
            steps,
            max(0, steps - config.decay_steps),
        )


def rate_at(config: OptimiserConfig, steps: int, count: int) -> float:
    """What `schedule` says after `count` updates, computed on the host: no device is asked."""
    rate, decay = config.learning_rate, config.decay_steps
    past = count - (steps - decay)
    if decay and past >= 0:
        cosine = 0.5 * (1 + math.cos(math.pi * min(past, decay) / decay))
        return rate * (0.99 * cosine + 0.01)
    return rate * min(1.0, count / config.warmup_steps) if config.warmup_steps else rate


def make_optimiser(
    config: OptimiserConfig, steps: int, *, pooled: bool = False
) -> optax.GradientTransformation:
    """The chain clip -> AdamW over all parameters but the frozen ones, which never move.

    Of `pooled` networks, along the first dim of every array, each has a count of its own.
    """
    adam = make_adam(config.beta1, config.beta2)
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        each(adam) if pooled else adam,
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )
    return optax.partition({"train": chain, "frozen": optax.set_to_zero()}, label_frozen)


def make_adam(beta1: float, beta2: float) -> optax.GradientTransformation:
    """Adam's direction. Without a first moment none is kept."""
    if beta1:
        return optax.scale_by_adam(beta1, beta2)
    return optax.scale_by_rms(beta2, eps=1e-8, eps_in_sqrt=False, bias_correction=True)


def each(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation of every entry of the first dim on its own, scalars of its state too.

    Adam's bias is corrected by a count. One that is not the entry's own makes the first steps of a
    new entry up to 1 / sqrt(1 - beta2) times the rate.
    """

    def update(updates: Params, opt: optax.OptState, params: Params | None = None) -> tuple:
        del params
        return jax.vmap(tx.update)(updates, opt)

    return optax.GradientTransformation(jax.vmap(tx.init), update)


def restarted(opt: optax.OptState) -> optax.OptState:
    """An optimiser's memory with its schedule at the first step: for the next job."""

    def anew(node: Any) -> Any:
        return node._replace(count=jnp.zeros_like(node.count)) if _is_schedule(node) else node

    return jax.tree.map(anew, opt, is_leaf=_is_schedule)


def _is_schedule(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def label_frozen(params: Params) -> Params:
    """The tree of "train" and "frozen" labels that `optax.partition` wants."""

    def label(path: tuple, _: Array) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return "frozen" if re.fullmatch(FROZEN, name) else "train"

    return jax.tree_util.tree_map_with_path(label, params)
