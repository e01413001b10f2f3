"""The autoencoder's losses: reconstruction, and the distance of its latents from a Gaussian.

Source: Rombach et al. 2022, arXiv:2112.10752, section 3.1 (without the adversarial term).
"""

import jax.numpy as jnp
from jax import Array


def reconstruction_loss(image: Array, decoded: Array) -> Array:
    """Mean absolute error plus mean squared error of images "b h w c" in [-1, 1]."""
    error = decoded - image
    return jnp.mean(jnp.abs(error)) + jnp.mean(jnp.square(error))


def gaussian_kl(
    mean: Array,
    log_variance: Array,
    other_mean: Array | float = 0.0,
    other_log_variance: Array | float = 0.0,
) -> Array:
    """KL(N(mean, variance) || N(other mean, other variance)), nats per element.

    A scalar of means and log-variances "b h w c". The other one is the unit Gaussian unless it is
    given.
    """
    narrower = log_variance - other_log_variance
    distance = jnp.square(mean - other_mean) * jnp.exp(-jnp.asarray(other_log_variance))
    return 0.5 * jnp.mean(distance + jnp.exp(narrower) - 1.0 - narrower)
