"""Classifier-free guidance as a wrapper of a velocity function.

Source: Ho and Salimans 2022, arXiv:2207.12598, in its velocity form.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.types import Cond, Params

Velocity = Callable[[Params, Array, Array, Cond], Array]


def guided(
    velocity: Velocity, guidance_scale: float
) -> Callable[[Params, Array, Array, Cond, Cond], Array]:
    """`guided(params, x, sigma, cond, uncond)`: `uncond + scale (cond - uncond)`.

    Both halves go through the network as one batch.
    """

    def both(params: Params, x: Array, sigma: Array, cond: Cond, uncond: Cond) -> Array:
        twice = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), cond, uncond)
        pair = velocity(params, jnp.concatenate([x, x]), jnp.concatenate([sigma, sigma]), twice)
        with_text, without = jnp.split(pair, 2)
        return without + guidance_scale * (with_text - without)

    return both
