"""The sizes of a network, read off the shapes of its tensors: single files carry no config.

Heads are 64 wide in every released text encoder, and the autoencoder's scale and shift are SD3's.
"""

import math
import re

from flashjax.convert.configs import Reader
from flashjax.convert.tensors import Tensors
from flashjax.models.clip import CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.vae import VAEConfig

HEAD_WIDTH = 64


def mmdit_sizes(tensors: Tensors) -> MMDiTConfig:
    """Of SAI's tensors (without prefix). InputError if they are not an SD3 model's."""
    shapes = tensors.shapes
    read = Reader(shapes, tensors.where)
    width, channels, patch, _ = read("x_embedder.proj.weight")
    depth = _count(tensors, r"joint_blocks\.\d+\.x_block\.attn\.qkv\.weight")
    dual = _count(tensors, r"joint_blocks\.\d+\.x_block\.attn2\.qkv\.weight")
    norm = "joint_blocks.0.x_block.attn.ln_q.weight"
    head_width = shapes[norm][0] if norm in shapes else HEAD_WIDTH
    hidden, _ = read("joint_blocks.0.x_block.mlp.fc1.weight")
    return MMDiTConfig(
        depth=depth,
        heads=width // head_width,
        dual=min(dual, depth - 1),
        position_size=math.isqrt(read("pos_embed")[1]),
        text_width=read("context_embedder.weight")[1],
        pooled_width=read("y_embedder.mlp.0.weight")[1],
        head_width=head_width,
        channels=channels,
        patch=patch,
        mlp_ratio=hidden // width,
        qk_norm=norm in shapes,
    )


def vae_sizes(tensors: Tensors) -> VAEConfig:
    """Of SAI's tensors (without prefix)."""
    read = Reader(tensors.shapes, tensors.where)
    levels = _count(tensors, r"encoder\.down\.\d+\.block\.0\.conv1\.weight")
    channels = [read(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    return VAEConfig(
        channels=tuple(channels),
        layers=_count(tensors, r"encoder\.down\.0\.block\.\d+\.conv1\.weight"),
        latent_channels=read("decoder.conv_in.weight")[1],
    )


def clip_sizes(tensors: Tensors, *, activation: str, projected: bool) -> CLIPConfig:
    """Of transformers' tensors; `activation` is "quick_gelu" for L and "gelu" for bigG."""
    read = Reader(tensors.shapes, tensors.where)
    vocabulary, width = read("text_model.embeddings.token_embedding.weight")
    return CLIPConfig(
        vocabulary=vocabulary,
        length=read("text_model.embeddings.position_embedding.weight")[0],
        width=width,
        depth=_count(tensors, r"text_model\.encoder\.layers\.\d+\.mlp\.fc1\.weight"),
        heads=width // HEAD_WIDTH,
        hidden=read("text_model.encoder.layers.0.mlp.fc1.weight")[0],
        activation=activation,
        projection=read("text_projection.weight")[0] if projected else 0,
    )


def t5_sizes(tensors: Tensors) -> T5Config:
    """Of transformers' tensors."""
    read = Reader(tensors.shapes, tensors.where)
    attention = "encoder.block.0.layer.0.SelfAttention"
    vocabulary, width = read("shared.weight")
    buckets, heads = read(f"{attention}.relative_attention_bias.weight")
    return T5Config(
        vocabulary=vocabulary,
        width=width,
        depth=_count(tensors, r"encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight"),
        heads=heads,
        head_width=read(f"{attention}.q.weight")[0] // heads,
        hidden=read("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")[0],
        buckets=buckets,
    )


def _count(tensors: Tensors, pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)
