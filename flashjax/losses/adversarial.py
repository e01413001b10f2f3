"""The adversarial losses of the heads: non-saturating, as softplus, or hinge.

Source: Goodfellow et al. 2014, arXiv:1406.2661; DMD2, arXiv:2405.14867, section 4.3, has softplus;
Lim and Ye 2017, arXiv:1705.02894, and SenseFlow, arXiv:2506.00523, the hinge.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

Kind = Literal["softplus", "hinge"]


def generator_loss(fake_logits: Array, kind: Kind = "softplus") -> Array:
    """A scalar, low where heads take the student's samples for real ones; logits of any shape."""
    if kind == "hinge":
        return -jnp.mean(fake_logits)
    return jnp.mean(jax.nn.softplus(-fake_logits))


def critic_loss(real_logits: Array, fake_logits: Array, kind: Kind = "softplus") -> Array:
    """A scalar, low where the heads tell real samples from the student's; logits of any shape."""
    if kind == "hinge":
        low, high = jax.nn.relu(1.0 + fake_logits), jax.nn.relu(1.0 - real_logits)
        return jnp.mean(low) + jnp.mean(high)
    return jnp.mean(jax.nn.softplus(fake_logits)) + jnp.mean(jax.nn.softplus(-real_logits))
