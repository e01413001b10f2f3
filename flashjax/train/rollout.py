"""The student's own trajectory: Euler steps on its grid, and the teacher's along one segment.

Letters: b batch, h w c latents, s student steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.flow.guidance import Velocity, guided
from flashjax.flow.solvers import euler
from flashjax.types import Cond, Params


def roll_out(
    velocity: Velocity,
    params: Params,
    x: Array,
    sigmas: Array,
    cond: Cond,
    *,
    first: Array | int,
    upto: Array,
) -> Array:
    """The student's state before step `upto`, from its state `x` before step `first`; no gradient.

    `upto` is one step for the whole batch, so that no network call is spent on states that nobody
    asks for.
    """
    size = x.shape[0]

    def step(index: Array, x: Array) -> Array:
        sigma = jnp.full((size,), sigmas[index])
        return x + (sigmas[index + 1] - sigmas[index]) * velocity(params, x, sigma, cond)

    return jax.lax.stop_gradient(jax.lax.fori_loop(first, upto, step, x))


def make_teacher_segment(
    velocity: Velocity, *, guidance_scale: float, substeps: int
) -> Callable[[Params, Array, Array, Array, Cond, Cond], Array]:
    """Builds `segment(teacher, x, sigma, next_sigma, cond, uncond) -> x at next_sigma`.

    The guided teacher takes `substeps` equal Euler steps from `sigma` "b" to `next_sigma` "b".
    """
    teach = guided(velocity, guidance_scale)

    def segment(
        teacher: Params, x: Array, sigma: Array, next_sigma: Array, cond: Cond, uncond: Cond
    ) -> Array:
        share = jnp.linspace(0.0, 1.0, substeps + 1)[:, None]
        grid = sigma[None, :] + share * (next_sigma - sigma)[None, :]
        end = euler(lambda x, sigma: teach(teacher, x, sigma, cond, uncond), x, grid)
        return jax.lax.stop_gradient(end)

    return segment
