"""The sizes of a network, read off the shapes of its tensors: single files carry no config.

What shapes do not say (how wide a head is, an autoencoder's scale) is as in a config that is known
and agrees with all they do say; else as in every released model of the family.
"""

import dataclasses
import math
import re
from collections.abc import Collection
from typing import TypeVar

from flashjax.convert.fields import say
from flashjax.convert.naming import RELEASED_CLIPS
from flashjax.convert.tensors import Shape, Tensors
from flashjax.models.clip import CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.vae import VAEConfig
from flashjax.models.variants import MMDIT
from flashjax.types import InputError

HEAD_WIDTH = 64  # of every released transformer and text encoder
RELEASED_MMDITS = {config.width for config in MMDIT.values() if not config.qk_norm}
Config = TypeVar("Config", MMDiTConfig, VAEConfig, CLIPConfig, T5Config)


def mmdit_sizes(tensors: Tensors, known: MMDiTConfig | None = None) -> MMDiTConfig:
    """Of SAI's tensors (without prefix). InputError if they are not an SD3 model's."""
    sizes = mmdit_shapes(tensors)
    if sizes.qk_norm:
        return sizes
    if known is not None and known.width == sizes.width:
        # A table may be cropped, and how a model is computed is no size of it.
        same = {name: getattr(sizes, name) for name in ("position_size", "remat", "dtype")}
        known = dataclasses.replace(known, **same)
        if _agreed(sizes, known, "heads", "head_width") == known:
            return known
    heads = _unsaid_heads(tensors, sizes.width, RELEASED_MMDITS)
    return dataclasses.replace(sizes, heads=heads, head_width=HEAD_WIDTH)


def mmdit_shapes(tensors: Tensors) -> MMDiTConfig:
    """Of SAI's tensors, what their shapes tell; without norms of heads it is one head."""
    width, channels, patch, _ = _shape(tensors, "x_embedder.proj.weight", 4)
    _, places, _ = _shape(tensors, "pos_embed", 3)
    norm = "joint_blocks.0.x_block.attn.ln_q.weight"
    depth = _count(tensors, r"joint_blocks\.(\d{1,3})\.x_block\.attn\.qkv\.weight")
    dual = _count(tensors, r"joint_blocks\.(\d{1,3})\.x_block\.attn2\.qkv\.weight")
    if math.isqrt(places) ** 2 != places or depth < 1:
        what = f"pos_embed has {places} places, no square" if depth else "it has no blocks"
        raise InputError(f"{tensors.where} is no SD3 model: {what}")
    head_width = _shape(tensors, norm, 1)[0] if norm in tensors else width
    return MMDiTConfig(
        depth=depth,
        heads=_heads(tensors, width, head_width),
        dual=min(dual, depth - 1),
        position_size=math.isqrt(places),
        text_width=_shape(tensors, "context_embedder.weight", 2)[1],
        pooled_width=_shape(tensors, "y_embedder.mlp.0.weight", 2)[1],
        head_width=head_width,
        channels=channels,
        patch=patch,
        mlp_ratio=_shape(tensors, "joint_blocks.0.x_block.mlp.fc1.weight", 2)[0] // width,
        qk_norm=norm in tensors,
    )


def vae_sizes(tensors: Tensors, known: VAEConfig | None = None) -> VAEConfig:
    """Of SAI's tensors (without prefix).

    InputError for sizes of neither SD3 nor `known`: scale and shift would be made up.
    """
    found = _agreed(vae_shapes(tensors), known, "groups", "scaling_factor", "shift_factor")
    if found not in (known, VAEConfig()):
        raise InputError(
            f"{tensors.where} is no autoencoder of SD3's sizes, and does not say its groups, scale "
            "and shift: give --base the folder of its pipeline"
        )
    return found


def vae_shapes(tensors: Tensors) -> VAEConfig:
    """Of SAI's tensors, what their shapes tell; groups, scale and shift are SD3's."""
    levels = _count(tensors, r"encoder\.down\.(\d{1,3})\.block\.0\.conv1\.weight")
    return VAEConfig(
        channels=tuple(
            _shape(tensors, f"encoder.down.{level}.block.0.conv1.weight", 4)[0]
            for level in range(max(levels, 1))
        ),
        layers=_count(tensors, r"encoder\.down\.0\.block\.(\d{1,3})\.conv1\.weight"),
        latent_channels=_shape(tensors, "decoder.conv_in.weight", 4)[1],
    )


def clip_sizes(
    tensors: Tensors, known: CLIPConfig | None = None, *, activation: str, projected: bool
) -> CLIPConfig:
    """Of transformers' tensors; `activation` is "quick_gelu" for L and "gelu" for bigG."""
    vocabulary, width = _shape(tensors, "text_model.embeddings.token_embedding.weight", 2)
    length, _ = _shape(tensors, "text_model.embeddings.position_embedding.weight", 2)
    sizes = CLIPConfig(
        vocabulary=vocabulary,
        length=length,
        width=width,
        depth=_count(tensors, r"text_model\.encoder\.layers\.(\d{1,3})\.mlp\.fc1\.weight"),
        heads=1,
        hidden=_shape(tensors, "text_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        activation=activation,
        projection=_shape(tensors, "text_projection.weight", 2)[0] if projected else 0,
    )
    found = _agreed(sizes, known, "heads", "activation", "dtype")
    if found == known:
        return found
    heads = _unsaid_heads(tensors, width, RELEASED_CLIPS.values())
    return dataclasses.replace(sizes, heads=heads)


def t5_sizes(tensors: Tensors, known: T5Config | None = None) -> T5Config:
    """Of transformers' tensors."""
    attention = "encoder.block.0.layer.0.SelfAttention"
    vocabulary, width = _shape(tensors, "shared.weight", 2)
    buckets, heads = _shape(tensors, f"{attention}.relative_attention_bias.weight", 2)
    sizes = T5Config(
        vocabulary=vocabulary,
        width=width,
        depth=_count(tensors, r"encoder\.block\.(\d{1,3})\.layer\.0\.SelfAttention\.q\.weight"),
        heads=heads,
        head_width=_shape(tensors, f"{attention}.q.weight", 2)[0] // heads,
        hidden=_shape(tensors, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        buckets=buckets,
    )
    return _agreed(sizes, known, "max_distance", "dtype")


def _agreed(sizes: Config, known: Config | None, *unsaid: str) -> Config:
    """`known` where it has all sizes but those `unsaid`, which shapes do not tell; else `sizes`."""
    if known is None:
        return sizes
    full = dataclasses.replace(sizes, **{name: getattr(known, name) for name in unsaid})
    return known if full == known else sizes


def _unsaid_heads(tensors: Tensors, width: int, released: Collection[int]) -> int:
    """The heads of a network that does not say them: where its width is none `released`, a line."""
    heads = _heads(tensors, width, HEAD_WIDTH)
    if width not in released:
        say(f"{tensors.where} does not say its heads: they are taken to be {HEAD_WIDTH} wide")
    return heads


def _heads(tensors: Tensors, width: int, head_width: int) -> int:
    if width % head_width:
        raise InputError(
            f"{tensors.where}: its width {width} is not of heads of {head_width}; give --base the "
            "folder of its pipeline"
        )
    return width // head_width


def _shape(tensors: Tensors, name: str, rank: int) -> Shape:
    """The shape of a tensor. InputError where it is not there, or has not `rank` dims."""
    shape = tensors.shapes.get(name)
    if shape is None or len(shape) != rank or not all(shape):
        found = "is not there" if shape is None else f"is {shape}, not of {rank} dims"
        raise InputError(f"{tensors.where} is no part of an SD3 model: {name} {found}")
    return shape


def _count(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number in names of this pattern: what is lacking counts too."""
    numbers = [int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))]
    return max(numbers, default=-1) + 1
