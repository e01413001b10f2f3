"""Branches that stay apart when a student runs: each takes the steps of its own range.

Source: eDiff-I, arXiv:2211.01324 (experts by noise level); SD3.5-Flash merges them instead.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.flow.guidance import Velocity
from flashjax.types import Cond, Params


def by_expert(velocity: Velocity, bounds: Sequence[float]) -> Velocity:
    """`velocity` over as many sets of parameters as `bounds` and one, that of most noise first.

    The n-th set acts down to the n-th of the decreasing noise levels `bounds`, which belongs to the
    next; the whole batch is at one level.
    """
    edges = jnp.asarray(bounds, jnp.float32)

    def expert(params: Sequence[Params], x: Array, sigma: Array, cond: Cond) -> Array:
        if len(params) != len(bounds) + 1:
            raise ValueError(f"experts: {len(params)} sets of parameters, {len(bounds)} bounds")
        calls = [lambda own=own: velocity(own, x, sigma, cond) for own in params]
        return jax.lax.switch(jnp.sum(sigma[0] <= edges), calls)

    return expert
