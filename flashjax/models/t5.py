"""The T5 v1.1 encoder.

Source: Raffel et al. 2020, arXiv:1910.10683; transformers `T5EncoderModel`.
Letters: b batch, m tokens, d width, h heads, k head width.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.models.layers import Dense, RMSNorm, check_dtype, scanned
from flashjax.models.parameters import as_floats, held, parameter
from flashjax.types import Count


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of one T5 v1.1 encoder (gated GELU).

    `dtype` is that of everything but norms' statistics and softmax. bfloat16 is safe; the real
    weights overflow float16, which is refused.
    """

    vocabulary: Count
    width: Count
    depth: Count
    heads: Count
    head_width: Count
    hidden: Count
    buckets: Count = 32
    max_distance: Count = 128
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        check_dtype(self.dtype)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every (query, key) pair, "m m": exact nearby, logarithmic far away, by sign."""
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, exact = buckets // 2, buckets // 4
    near = np.abs(distance)
    scaled = np.log(np.maximum(near, 1) / exact) / math.log(max_distance / exact)
    far = np.minimum(exact + (scaled * (half - exact)).astype(np.int64), half - 1)
    return np.where(distance > 0, half, 0) + np.where(near < exact, near, far)


class T5Block(nn.Module):
    """Pre-norm attention with an additive position bias and no scaling, then a gated MLP."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Array, bias: Array) -> tuple[Array, None]:
        config = self.config
        dense = functools.partial(Dense, use_bias=False, dtype=config.dtype)
        heads = (3, config.heads, config.head_width)
        qkv = dense(heads, (None, "heads", None), name="qkv")(RMSNorm(name="norm1")(x))
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        attended = jax.nn.dot_product_attention(q, k, v, bias=bias, scale=1.0)
        x = x + dense((config.width,), ("width",), contract=2, name="proj")(attended)
        normed = RMSNorm(name="norm2")(x)
        gates = dense((2, config.hidden), (None, "hidden"), name="gates")(normed)
        hidden = jax.nn.gelu(gates[:, :, 0]) * gates[:, :, 1]
        return x + dense((config.width,), ("width",), name="out")(hidden), None


class T5Encoder(nn.Module):
    """Token ids "b m" to hidden states "b m d" after the final norm."""

    config: T5Config

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        config = self.config
        normal = nn.initializers.normal(1.0)
        tokens = held(self, "tokens", normal, (config.vocabulary, config.width))
        x = as_floats(tokens[ids]).astype(config.dtype)
        table = parameter(self, "position_bias", normal, (config.buckets, config.heads))
        index = relative_buckets(ids.shape[1], config.buckets, config.max_distance)
        bias = table[index].transpose(2, 0, 1)[None]
        x, _ = scanned(T5Block, config.depth)(config, name="blocks")(x, bias)
        return RMSNorm(name="norm")(x)
