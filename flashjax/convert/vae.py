"""The autoencoder between flashjax, Stability AI's ("SAI") names and diffusers'.

Source: keys of Stability-AI/sd3.5 `sd3_impls.py` (`SDVAE`) and diffusers `AutoencoderKL`.
"""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp

from flashjax import trees
from flashjax.convert.naming import network
from flashjax.convert.sizes import vae_shapes
from flashjax.convert.table import (
    AS_STORED,
    Layout,
    Placement,
    Row,
    conv,
    from_tensors,
    linear,
    row,
    split_path,
    to_tensors,
    translated_rows,
    vector,
)
from flashjax.convert.tensors import Shape, Tensors
from flashjax.models.layers import init
from flashjax.models.vae import VAE, VAEConfig
from flashjax.types import Params

# Part of a flashjax module's path, of SAI's key, of diffusers' key. SAI counts a decoder's levels
# from the image, the others in the order they run: {mirror} and {level}.
PARTS = (
    ("down_{level}_resnet_{i}", "down.{level}.block.{i}", "down_blocks.{level}.resnets.{i}"),
    (
        "down_{level}_conv",
        "down.{level}.downsample.conv",
        "down_blocks.{level}.downsamplers.0.conv",
    ),
    ("up_{level}_resnet_{i}", "up.{mirror}.block.{i}", "up_blocks.{level}.resnets.{i}"),
    ("up_{level}_conv", "up.{mirror}.upsample.conv", "up_blocks.{level}.upsamplers.0.conv"),
    ("mid/resnet_0", "mid.block_1", "mid_block.resnets.0"),
    ("mid/resnet_1", "mid.block_2", "mid_block.resnets.1"),
    ("mid/attention/norm", "mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
    ("mid/attention/q", "mid.attn_1.q", "mid_block.attentions.0.to_q"),
    ("mid/attention/k", "mid.attn_1.k", "mid_block.attentions.0.to_k"),
    ("mid/attention/v", "mid.attn_1.v", "mid_block.attentions.0.to_v"),
    ("mid/attention/proj", "mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
    ("shortcut", "nin_shortcut", "conv_shortcut"),
    ("norm_out", "norm_out", "conv_norm_out"),
)

# diffusers' names of the encoder's resnets, which tell all sizes, and SAI's
_SIZED = r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."


def vae_from(
    tensors: Tensors, config: VAEConfig, naming: str, placement: Placement = AS_STORED
) -> Params:
    """The parameter tree of tensors named "sai" (without prefix) or "diffusers".

    InputError if they are not exactly `config`'s.
    """
    return from_tensors(vae_rows(config, naming), network(tensors, "vae", naming), placement)


def vae_to(params: Params, config: VAEConfig, naming: str) -> Tensors:
    """The tensors of a parameter tree, named "sai" (without prefix) or "diffusers"."""
    return to_tensors(vae_rows(config, naming), params)


def under_sai_names(tensors: Tensors) -> Tensors:
    """Tensors named as diffusers does under SAI's names, their sizes being those of the tensors.

    InputError if they are not exactly an autoencoder's.
    """
    sized = {name: re.sub(*_SIZED, name) for name in tensors}
    config = vae_shapes(tensors.renamed(sized, where=tensors.where))
    config = dataclasses.replace(config, groups=1)  # which no shape tells, and no name needs
    return translated_rows(tensors, *(vae_rows(config, name) for name in ("diffusers", "sai")))


def vae_rows(config: VAEConfig, naming: str) -> list[Row]:
    """Where every leaf lies under `naming`, "sai" or "diffusers"."""
    parts = _parts(config, naming)
    rows = []
    for path, leaf in trees.flatten(abstract_vae(config)).items():
        module, suffix = split_path(path)
        for ours, theirs in parts.items():
            module = module.replace(ours, theirs)
        key = module.replace("/", ".") + suffix
        rows.append(row(path, (key,), _layout(path, leaf.shape, naming)))
    return rows


@trees.computed_once
def abstract_vae(config: VAEConfig) -> Params:
    """The shapes of the parameter tree; nothing is computed."""
    image = jnp.zeros((1, config.factor, config.factor, 3))
    return jax.eval_shape(functools.partial(init, VAE(config)), jax.random.key(0), image)


def _parts(config: VAEConfig, naming: str) -> dict[str, str]:
    """`PARTS` for every level and index of `config`."""
    levels = len(config.channels)
    column = {"sai": 1, "diffusers": 2}[naming]
    parts: dict[str, str] = {}
    for level, i in itertools.product(range(levels), range(config.layers + 1)):
        numbers = {"level": level, "mirror": levels - 1 - level, "i": i}
        parts |= {row[0].format(**numbers): row[column].format(**numbers) for row in PARTS}
    return parts


def _layout(path: str, leaf: Shape, naming: str) -> Layout:
    if not path.endswith("/kernel"):
        return vector(leaf)
    if len(leaf) == 4:
        return conv(leaf)
    return conv(leaf, split=(1, 1, *leaf)) if naming == "sai" else linear(leaf)
