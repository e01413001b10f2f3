"""The CLIP text encoders of SD3.5 (L and bigG): penultimate hidden states and a pooled vector.

Source: Radford et al. 2021, arXiv:2103.00020; transformers `CLIPTextModelWithProjection`.
Letters: b batch, m tokens, d width, p pooled.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from flashjax.models.layers import Dense, check_dtype, scanned
from flashjax.models.parameters import as_floats, held, parameter
from flashjax.types import Count, InputError, Whole

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Sizes of one text encoder; `projection` 0 pools without a projection, as SD3 does for L."""

    vocabulary: Count
    length: Count
    width: Count
    depth: Count
    heads: Count
    hidden: Count
    activation: str  # "quick_gelu" for L, "gelu" for bigG
    projection: Whole = 0
    dtype: jnp.dtype = jnp.float32  # of everything but norms' statistics and softmax

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise InputError(f"activation={self.activation!r}: choose of {known}")

    @property
    def pooled(self) -> int:
        """Numbers of the pooled text."""
        return self.projection or self.width


class CLIPBlock(nn.Module):
    """Pre-norm causal attention and MLP."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, x: Array, only: Array | None = None) -> tuple[Array, None]:
        """Tokens "b m d" after the block, or "b 1 d": those at the places `only`, "b"."""
        config = self.config
        dense = functools.partial(Dense, dtype=config.dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=config.dtype)
        heads = (3, config.heads, config.width // config.heads)
        qkv = dense(heads, (None, "heads", None), name="qkv")(norm(name="norm1")(x))
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        if only is not None:
            # Sample by sample: an index over the batch would gather it from all devices.
            pick = jax.vmap(lambda tokens, place: tokens[place][None])
            x, attended = pick(x, only), pick(attended, only)
        x = x + dense((config.width,), ("width",), contract=2, name="proj")(attended)
        hidden = dense((config.hidden,), ("hidden",), name="fc1")(norm(name="norm2")(x))
        hidden = ACTIVATIONS[config.activation](hidden)
        return x + dense((config.width,), ("width",), name="fc2")(hidden), None


class CLIPText(nn.Module):
    """Token ids "b m" to (penultimate hidden states "b m d" without the final norm, pooled "b p").

    The pooled vector is read at the end-of-text token, the largest id of the vocabulary, at its
    first place: padding may repeat it. Of the last block nothing else is read, so its MLP sees
    that token only.
    """

    config: CLIPConfig

    @nn.compact
    def __call__(self, ids: Array) -> tuple[Array, Array]:
        config = self.config
        normal = nn.initializers.normal(0.02)
        table = held(self, "tokens", normal, (config.vocabulary, config.width))
        positions = parameter(self, "positions", normal, (config.length, config.width))
        places = positions[None, : ids.shape[1]].astype(config.dtype)
        x = as_floats(table[ids]).astype(config.dtype) + places
        if config.depth > 1:
            x, _ = scanned(CLIPBlock, config.depth - 1)(config, name="blocks")(x)
        end, _ = CLIPBlock(config, name="last")(x, jnp.argmax(ids, axis=1))
        end = nn.LayerNorm(epsilon=1e-5, dtype=config.dtype, name="norm")(end)
        pooled = end[:, 0]
        if config.projection:
            shape, names = (config.projection,), ("width",)
            project = Dense(shape, names, use_bias=False, dtype=config.dtype, name="projection")
            pooled = project(pooled)
        return x, pooled
