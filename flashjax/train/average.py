"""Averaged weights: how far they look back, and the one formula that moves them.

Source: Karras et al. 2022, arXiv:2206.00364, appendix F (a half-life, and a ramp of it); Karras et
al. 2023, arXiv:2312.02696, section 3.1 (a power of the time).
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.types import Decay, Params, Positive, Weight

SHORTEST = 1e-8  # half-life of an average without memory


@dataclasses.dataclass(frozen=True)
class AverageConfig:
    """How far an average looks back, in updates.

    "constant" keeps `decay` of the past at every update, "half_life" one half of it in `half_life`
    updates; "power" weighs update n by n ** `exponent`. Of the first two, a `warmup` above 0 limits
    the half-life to that share of the updates so far: nothing is kept of the start. "power" keeps
    nothing of it anyway.
    """

    schedule: Literal["constant", "half_life", "power"] = "constant"  # what the other keys are for
    decay: Decay = 0.999  # share of the past that an update keeps, of "constant"
    half_life: Positive = 700.0  # in updates, of "half_life"
    exponent: Positive = 6.94  # of "power"; 6.94 is a relative width of 0.1
    warmup: Weight = 0.0  # most of the updates so far that a half-life may be; 0: no limit


def decay_at(config: AverageConfig, updates: Array) -> Array:
    """The share of the average that an update keeps, after so many `updates`; scalars."""
    done = jnp.asarray(updates, jnp.float32)
    if config.schedule == "power":
        return (done / (done + 1.0)) ** (config.exponent + 1.0)
    half_life = jnp.float32(config.half_life)
    if config.schedule == "constant":
        half_life = jnp.float32(math.log(0.5) / math.log(max(config.decay, 1e-300)))
    if config.warmup:
        half_life = jnp.minimum(half_life, config.warmup * done)
    return 0.5 ** (1.0 / jnp.maximum(half_life, SHORTEST))


def averaged(old: Params, new: Params, decay: Array | float) -> Params:
    """`decay * old + (1 - decay) * new`, in a form that leaves what is equal as it is, bit for bit.

    Of trees with equal shapes; `decay` is a scalar. Tables that never move are handed on as
    they were imported.
    """
    return jax.tree.map(lambda a, b: b + decay * (a - b), old, new)
