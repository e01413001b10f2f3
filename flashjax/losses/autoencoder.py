"""The autoencoder's loss: reconstruction plus a small pull of the latents to a unit Gaussian.

Source: Rombach et al. 2022, arXiv:2112.10752, section 3.1 (without the adversarial term).
"""

import jax.numpy as jnp
from jax import Array


def reconstruction_loss(image: Array, decoded: Array) -> Array:
    """Mean absolute error plus mean squared error of images "b h w c" in [-1, 1]."""
    error = decoded - image
    return jnp.mean(jnp.abs(error)) + jnp.mean(jnp.square(error))


def kl_to_unit_gaussian(mean: Array, log_variance: Array) -> Array:
    """KL(N(mean, variance) || N(0, 1)), nats per latent element."""
    return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)
