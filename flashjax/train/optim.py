"""Optimisers: AdamW with warm-up, clipping, and parameters that stay frozen by path."""

import dataclasses
import re

import jax
import optax

from flashjax.types import Decay, Params, Positive, Weight, Whole

FROZEN = r"(.*/)?position"  # the position table is data of the checkpoint, not a weight


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """AdamW: warm-up, a constant rate, and a cosine over the last `decay_steps` of `steps`."""

    learning_rate: Positive
    warmup_steps: Whole = 0
    decay_steps: Whole = 0
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    weight_decay: Weight = 0.0
    clip_norm: Positive = 1.0


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


def make_optimiser(config: OptimiserConfig, steps: int) -> optax.GradientTransformation:
    """The chain clip -> AdamW over all parameters but the frozen ones, which never move."""
    adam = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
        ),
    )
    return optax.partition({"train": adam, "frozen": optax.set_to_zero()}, label_frozen)


def label_frozen(params: Params) -> Params:
    """The tree of "train" and "frozen" labels that `optax.partition` wants."""

    def label(path: tuple, _: jax.Array) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return "frozen" if re.fullmatch(FROZEN, name) else "train"

    return jax.tree_util.tree_map_with_path(label, params)
