"""Flow matching: regression of the velocity of the straight path.

Source: Lipman et al. 2022, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206, section 2.
"""

import jax.numpy as jnp
from jax import Array


def flow_matching_loss(velocity: Array, x0: Array, noise: Array) -> Array:
    """Mean squared error "b" between a predicted velocity and `noise - x0`, "b ..."."""
    error = velocity - (noise - x0)
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
