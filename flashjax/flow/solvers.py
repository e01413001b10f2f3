"""Solvers of the flow's differential equation.

Letters: b batch, s steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def euler(velocity: Callable[[Array, Array], Array], x: Array, sigmas: Array) -> Array:
    """Follows `velocity(x, sigma)` along the grid `sigmas`, "s+1" or one per sample "s+1 b"."""

    def step(x: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        here, there = (jnp.broadcast_to(end, x.shape[:1]) for end in ends)
        distance = (there - here).reshape((-1,) + (1,) * (x.ndim - 1))
        return x + distance * velocity(x, here), None

    sigmas = jnp.asarray(sigmas)
    return jax.lax.scan(step, x, (sigmas[:-1], sigmas[1:]))[0]
