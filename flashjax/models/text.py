"""The three text encoders together: prompts' tokens to what the transformer is conditioned on.

Source: Stability-AI/sd3.5 `sd3_infer.py`; runtimes differ only where T5 is absent.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.models.clip import CLIPConfig, CLIPText
from flashjax.models.layers import apply
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.types import Cond, Count, Params, Tokens, Whole


@dataclasses.dataclass(frozen=True)
class AbsentT5:
    """No T5: `length` zero tokens stand in its place.

    Runtimes disagree on how many: ComfyUI appends none, sd.cpp and KerasHub 77, diffusers 256. The
    transformer attends to zeros too, so use a model with the length that it was made for.
    """

    width: Count
    length: Whole


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The sizes of CLIP-L, CLIP-bigG and T5.

    `cut` is how many tokens of a prompt both CLIPs see, 0 where they see as many as both have
    places for: a longer CLIP has more than the tokenizer fills.
    """

    clip_l: CLIPConfig
    clip_g: CLIPConfig
    t5: T5Config | AbsentT5
    cut: Whole = 0

    @property
    def pooled_width(self) -> int:
        """Numbers of the pooled text."""
        return self.clip_l.pooled + self.clip_g.pooled

    @property
    def places(self) -> int:
        """Tokens that both CLIPs have places for."""
        return min(self.clip_l.length, self.clip_g.length)

    @property
    def clip_tokens(self) -> int:
        """Tokens of the CLIPs before those of T5."""
        return self.cut or self.places

    @property
    def vocabularies(self) -> dict[str, int]:
        """How many tokens each encoder knows, by its name; of a T5 that is absent nothing."""
        found = {"clip_l": self.clip_l.vocabulary, "clip_g": self.clip_g.vocabulary}
        return found | ({} if isinstance(self.t5, AbsentT5) else {"t5": self.t5.vocabulary})


def encode_text(
    config: TextConfig, params: Params, tokens: Tokens, *, drop: Array | None = None
) -> Cond:
    """Both CLIPs side by side in the channels, padded to T5's width, then T5 along the sequence.

    Args:
      config: sizes of the encoders.
      params: {"clip_l", "clip_g", "t5"} parameter trees; "t5" is not read where T5 is absent.
      tokens: ids "b m" for each encoder that there is.
      drop: bool "b 3", True where an encoder (L, G, T5) is absent: its features are zeros.
    """
    size = tokens.clip_l.shape[0]
    hidden_l, pooled_l = apply(CLIPText(config.clip_l), params["clip_l"], tokens.clip_l)
    hidden_g, pooled_g = apply(CLIPText(config.clip_g), params["clip_g"], tokens.clip_g)
    if isinstance(config.t5, AbsentT5):
        t5 = jnp.zeros((size, config.t5.length, config.t5.width))
    else:
        t5 = apply(T5Encoder(config.t5), params["t5"], tokens.t5)
    clip = jnp.concatenate([hidden_l, hidden_g], axis=-1)
    clip = jnp.pad(clip, ((0, 0), (0, 0), (0, t5.shape[-1] - clip.shape[-1])))
    cond = Cond(
        text=jnp.concatenate([clip, t5], axis=1).astype(jnp.float32),
        pooled=jnp.concatenate([pooled_l, pooled_g], axis=-1).astype(jnp.float32),
    )
    return cond if drop is None else drop_encoders(config, cond, drop)


def drop_encoders(config: TextConfig, cond: Cond, drop: Array) -> Cond:
    """The conditioning without the encoders (L, G, T5) that `drop`, bool "b 3", marks."""
    kept = 1.0 - drop.astype(jnp.float32)
    # Which encoder a channel of the CLIP tokens comes from; what pads them is zero anyway.
    of_g = jnp.arange(cond.text.shape[-1]) >= config.clip_l.width
    clip = jnp.where(of_g, kept[:, 1:2], kept[:, :1])[:, None]
    is_clip = jnp.arange(cond.text.shape[1]) < config.clip_tokens
    text = cond.text * jnp.where(is_clip[None, :, None], clip, kept[:, 2, None, None])
    of_g = jnp.arange(cond.pooled.shape[-1]) >= config.clip_l.pooled
    return Cond(text=text, pooled=cond.pooled * jnp.where(of_g, kept[:, 1:2], kept[:, :1]))


def encode_pair(
    config: TextConfig, params: Params, tokens: Tokens | Cond, empty: Tokens | Cond, *, drop: Array
) -> tuple[Cond, Cond]:
    """The conditioning of the captions and, one for each, of the empty caption "1 m".

    An encoder that is dropped for a sample is dropped from both. What is encoded already, by a
    program of its own, is taken as it is.
    """

    def encoded(tokens: Tokens | Cond) -> Cond:
        return tokens if isinstance(tokens, Cond) else encode_text(config, params, tokens)

    def repeated(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (drop.shape[0], *leaf.shape[1:]))

    cond, uncond = encoded(tokens), jax.tree.map(repeated, encoded(empty))
    return drop_encoders(config, cond, drop), drop_encoders(config, uncond, drop)


def draw_t5_drop(key: Array, size: int, share: float) -> Array:
    """Which encoders are absent, bool "b 3": T5 for a random `share` of the samples."""
    absent = jax.random.bernoulli(key, share, (size,))
    return jnp.stack([jnp.zeros_like(absent), jnp.zeros_like(absent), absent], axis=1)
