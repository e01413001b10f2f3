"""Distribution matching: where teacher and fake score disagree, the student's sample moves.

    g    = (x0_fake - x0_teacher) / max(mean |x0 - x0_teacher|, floor)
    loss = 1/2 || x0 - stop(x0 - g) ||^2

Source: Yin et al. 2023, arXiv:2311.18828, equations 7-8, in the x0 form of DMD2 (arXiv:2405.14867);
SD3.5-Flash (arXiv:2509.21318) changes only the point at which the scores are compared.
"""

import jax
import jax.numpy as jnp
from jax import Array


def matching_gradient(x0: Array, teacher_x0: Array, fake_x0: Array, *, floor: float) -> Array:
    """The direction "b ..." in which the student's sample leaves the fake distribution.

    Every sample is scaled by its own mean distance to the teacher's prediction, at least `floor`.
    """
    dims = tuple(range(1, x0.ndim))
    scale = jnp.mean(jnp.abs(x0 - teacher_x0), axis=dims, keepdims=True)
    return (fake_x0 - teacher_x0) / jnp.maximum(scale, floor)


def matching_loss(x0: Array, gradient: Array) -> Array:
    """A loss "b" whose gradient in `x0` is `gradient`, up to the mean over elements."""
    target = jax.lax.stop_gradient(x0 - gradient)
    return 0.5 * jnp.mean(jnp.square(x0 - target), axis=tuple(range(1, x0.ndim)))
