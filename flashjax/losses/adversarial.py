"""The non-saturating adversarial losses of the heads.

Source: Goodfellow et al. 2014, arXiv:1406.2661, as softplus; DMD2, arXiv:2405.14867, section 4.3.
"""

import jax
import jax.numpy as jnp
from jax import Array


def generator_loss(fake_logits: Array) -> Array:
    """Low where the heads take the student's samples for real ones."""
    return jnp.mean(jax.nn.softplus(-fake_logits))


def critic_loss(real_logits: Array, fake_logits: Array) -> Array:
    """Low where the heads tell real samples from the student's."""
    return jnp.mean(jax.nn.softplus(fake_logits)) + jnp.mean(jax.nn.softplus(-real_logits))
