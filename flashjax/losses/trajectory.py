"""Trajectory guidance: the student's velocity regresses onto multi-step integrals of the teacher.

Source: SD3.5-Flash, arXiv:2509.21318, pre-training stage (the segment form is our reading of it).
"""

import jax.numpy as jnp
from jax import Array

from flashjax.flow.path import along


def segment_velocity(start: Array, end: Array, sigma: Array, next_sigma: Array) -> Array:
    """The mean velocity "b ..." from `start` at `sigma` "b" to `end` at `next_sigma` "b"."""
    return (end - start) / along(next_sigma - sigma, start)


def trajectory_loss(velocity: Array, target: Array) -> Array:
    """Mean squared error "b" of velocities "b ..."."""
    error = velocity - target
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
