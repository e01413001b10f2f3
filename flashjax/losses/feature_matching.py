"""Feature matching: the student's samples have, block by block, the mean features of real ones.

    loss = mean ( sqrt( (mean_n F(x_student) - mean_n F(x_real))^2 + c^2 ) - c )

Source: the MMD term of SwD, arXiv:2503.16397 (a linear kernel on the means over tokens of the fake
score's features, pseudo-Huber with c = 1e-3), which is ours to read from its code.
Letters: t taps, b batch, n image tokens, d width.
"""

import jax.numpy as jnp
from jax import Array

SOFT = 1e-3  # below it the distance is squared


def feature_loss(tokens: Array, real_tokens: Array) -> Array:
    """The distance of mean features, of samples and real ones of the same captions "t b n d"."""
    apart = jnp.mean(tokens, axis=2) - jnp.mean(real_tokens, axis=2)
    return jnp.mean(jnp.sqrt(jnp.square(apart) + SOFT**2) - SOFT)
