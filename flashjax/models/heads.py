"""Adversarial heads: small convolutional critics on the image tokens of tapped blocks.

Source: DMD2 (arXiv:2405.14867, section 4.3); NitroFusion (arXiv:2412.02030) for a pool of heads
that are re-drawn. The exact heads of SD3.5-Flash are not public.
Letters: t taps, b batch, n image tokens on an h w grid, d width.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from flashjax.models.layers import layer_norm
from flashjax.types import Constrain, Count, Whole, unconstrained


@dataclasses.dataclass(frozen=True)
class HeadsConfig:
    """Which blocks are tapped, and the width inside every head."""

    taps: tuple[Whole, ...]  # blocks of the fake score that heads look at, from 0
    width: Count = 256  # inside every head


class Head(nn.Module):
    """Tokens of one block to a map of logits: high where they look real."""

    width: int
    rows: int

    @nn.compact
    def __call__(self, carry: None, tokens: Array) -> tuple[None, Array]:
        batch, n, d = tokens.shape
        x = layer_norm(tokens.astype(jnp.float32)).reshape(batch, self.rows, n // self.rows, d)
        x = jax.nn.silu(nn.Conv(self.width, (1, 1), name="squeeze")(x))
        x = nn.Conv(self.width, (4, 4), (2, 2), padding=1, name="look")(x)
        x = jax.nn.silu(layer_norm(x))
        return carry, nn.Conv(1, (1, 1), name="judge")(x)


class Heads(nn.Module):
    """The pool of heads, one per tap: tokens "t b n d" to logits "t b h w 1".

    A scan and no vmap: XLA multiplies the kernel gradients of a vmapped convolution by the size of
    every mesh axis that its batch is not split over (seen with jaxlib 0.10.2).
    """

    config: HeadsConfig
    constrain: Constrain = unconstrained

    @nn.compact
    def __call__(self, tokens: Array, *, rows: int) -> Array:
        pool = nn.scan(Head, variable_axes={"params": 0}, split_rngs={"params": True})
        _, logits = pool(self.config.width, rows, name="pool")(None, tokens)
        return self.constrain(logits, None, "batch", None, None, None)
