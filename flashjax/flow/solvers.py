"""Solvers of the flow's differential equation.

Letters: b batch, s steps. Every grid `sigmas` is "s+1", or "s+1 b": one per sample.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.flow.path import along, to_x0

Field = Callable[[Array, Array], Array]  # velocity(x, sigma "b")


def euler(velocity: Field, x: Array, sigmas: Array) -> Array:
    """Follows `velocity(x, sigma)` along the grid `sigmas`."""

    def step(x: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        here, there = (jnp.broadcast_to(end, x.shape[:1]) for end in ends)
        return x + along(there - here, x) * velocity(x, here), None

    sigmas = jnp.asarray(sigmas)
    return jax.lax.scan(step, x, (sigmas[:-1], sigmas[1:]))[0]


def dpmpp_2m(velocity: Field, x: Array, sigmas: Array) -> Array:
    """DPM-Solver++(2M): second order with one evaluation per step, on decreasing `sigmas`.

    The clean end is extrapolated from this step's and the last one's, linearly in log sigma; the
    first step and a step to 0 are Euler's.
    Source: Lu et al. 2022, arXiv:2211.01095; Stability-AI/sd3.5 `sample_dpmpp_2m`.
    """

    def step(carry: tuple[Array, Array], level: tuple[Array, ...]) -> tuple[tuple, None]:
        x, last = carry
        here, ratio, ahead = (jnp.broadcast_to(value, x.shape[:1]) for value in level)
        x0 = to_x0(velocity(x, here), x, here)
        end = x0 + along(ahead, x) * (x0 - last)
        return (end + along(ratio, x) * (x - end), x0), None

    sigmas = jnp.asarray(sigmas)
    here, there = sigmas[:-1], sigmas[1:]
    stride = jnp.log(here / there)  # infinite where there is 0
    ahead = jnp.where(there[1:] > 0, stride[1:] / (2.0 * stride[:-1]), 0.0)
    levels = here, there / here, jnp.concatenate([jnp.zeros_like(here[:1]), ahead])
    return jax.lax.scan(step, (x, jnp.zeros_like(x)), levels)[0][0]
