"""MMDiT-X between flashjax, Stability AI's ("SAI") names and diffusers'.

Source: keys of Stability-AI/sd3.5 `mmditx.py` and diffusers `SD3Transformer2DModel`.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from flashjax import trees
from flashjax.convert.naming import network
from flashjax.convert.sizes import mmdit_shapes
from flashjax.convert.table import (
    AS_STORED,
    Layout,
    Placement,
    Row,
    check_shapes,
    conv,
    from_tensors,
    linear,
    reshaped,
    row,
    split_path,
    to_tensors,
    translated_rows,
    vector,
)
from flashjax.convert.tensors import Info, Shape, Tensors
from flashjax.models.layers import init
from flashjax.models.mmdit import MMDiT, MMDiTConfig
from flashjax.types import Cond, InputError, Params

# flashjax module, SAI key, diffusers keys (several: the parts of a fused projection)
EDGES = (
    ("position", "pos_embed", "pos_embed.pos_embed"),
    ("patch_embed", "x_embedder.proj", "pos_embed.proj"),
    ("time_1", "t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("time_2", "t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("pooled_1", "y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("pooled_2", "y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("context_embed", "context_embedder", "context_embedder"),
    ("final_modulation", "final_layer.adaLN_modulation.1", "norm_out.linear"),
    ("final", "final_layer.linear", "proj_out"),
)
BLOCK = (
    ("image/modulation", "x_block.adaLN_modulation.1", "norm1.linear"),
    ("image/qkv", "x_block.attn.qkv", "attn.to_q attn.to_k attn.to_v"),
    ("image/q_norm", "x_block.attn.ln_q", "attn.norm_q"),
    ("image/k_norm", "x_block.attn.ln_k", "attn.norm_k"),
    ("image/proj", "x_block.attn.proj", "attn.to_out.0"),
    ("image/qkv2", "x_block.attn2.qkv", "attn2.to_q attn2.to_k attn2.to_v"),
    ("image/q_norm2", "x_block.attn2.ln_q", "attn2.norm_q"),
    ("image/k_norm2", "x_block.attn2.ln_k", "attn2.norm_k"),
    ("image/proj2", "x_block.attn2.proj", "attn2.to_out.0"),
    ("image/fc1", "x_block.mlp.fc1", "ff.net.0.proj"),
    ("image/fc2", "x_block.mlp.fc2", "ff.net.2"),
    ("text/modulation", "context_block.adaLN_modulation.1", "norm1_context.linear"),
    ("text/qkv", "context_block.attn.qkv", "attn.add_q_proj attn.add_k_proj attn.add_v_proj"),
    ("text/q_norm", "context_block.attn.ln_q", "attn.norm_added_q"),
    ("text/k_norm", "context_block.attn.ln_k", "attn.norm_added_k"),
    ("text/proj", "context_block.attn.proj", "attn.to_add_out"),
    ("text/fc1", "context_block.mlp.fc1", "ff_context.net.0.proj"),
    ("text/fc2", "context_block.mlp.fc2", "ff_context.net.2"),
)
BLOCK_PREFIX = {"sai": "joint_blocks.{}.", "diffusers": "transformer_blocks.{}."}

_KEYS = {
    "sai": {module: sai for module, sai, _ in EDGES + BLOCK},
    "diffusers": {module: diffusers for module, _, diffusers in EDGES + BLOCK},
}

# flashjax and SAI keep (shift, scale) here; diffusers' AdaLayerNormContinuous keeps (scale, shift).
SWAPPED = {"sai": (), "diffusers": ("final_modulation", "last/text/modulation")}


def transformer_from(
    tensors: Tensors, config: MMDiTConfig, naming: str, placement: Placement = AS_STORED
) -> Params:
    """The parameter tree of tensors named "sai" (without prefix) or "diffusers".

    InputError if they are not exactly `config`'s.
    """
    tensors = network(tensors, "transformer", naming)
    return from_tensors(transformer_rows(config, naming), tensors, placement)


def transformer_to(params: Params, config: MMDiTConfig, naming: str) -> Tensors:
    """The tensors of a parameter tree, named "sai" (without prefix) or "diffusers"."""
    return to_tensors(transformer_rows(config, naming), params)


def translated(tensors: Tensors, config: MMDiTConfig, *, given: str, wanted: str) -> Tensors:
    """Tensors named `given` ("sai" or "diffusers") under the names `wanted`, without a tree.

    Each is read when it is asked for: projections fused or cut, halves swapped. InputError if the
    tensors are not exactly `config`'s.
    """
    rows = transformer_rows(config, given)
    if given == wanted:
        check_shapes(rows, tensors)
        return tensors
    return translated_rows(tensors, rows, transformer_rows(config, wanted))


def under_sai_names(tensors: Tensors) -> Tensors:
    """Tensors named as diffusers does under SAI's names, their sizes being those of the tensors.

    InputError if they are not exactly a transformer's.
    """
    first = {
        diffusers.split()[0] + suffix: sai + suffix
        for _, sai, diffusers in EDGES + BLOCK
        for suffix in ("", ".weight", ".bias")
    }
    block = re.compile(re.escape(BLOCK_PREFIX["diffusers"]).replace(r"\{\}", r"(\d+)"))
    sized = {}  # of a projection that SAI fuses the first part: enough to see the sizes
    for name in tensors:
        found = block.match(name)
        prefix = BLOCK_PREFIX["sai"].format(found[1]) if found else ""
        inner = name[found.end() :] if found else name
        if inner in first:
            sized[name] = prefix + first[inner]
    config = mmdit_shapes(tensors.renamed(sized, where=tensors.where))
    return translated(tensors, config, given="diffusers", wanted="sai")


def cropped_position(tensors: Tensors, side: int) -> Tensors:
    """SAI's tensors with only the centre "side side" of the position table.

    Pictures up to `side` patches are the same to the bit: readers crop at the centre. InputError
    for a side that leaves no centre.
    """
    name = "pos_embed"
    info = tensors.infos[name]
    old = math.isqrt(info.shape[1])
    if not 0 < side <= old or (old - side) % 2:
        raise InputError(f"--position {side}: give {parity(old)} number of patches up to {old}")
    edge, new = (old - side) // 2, Info((1, side * side, info.shape[2]), info.dtype)

    def piece(key: str, start: int, stop: int) -> np.ndarray:
        if key != name:
            return tensors.piece(key, start, stop)
        table = tensors[name].reshape(old, old, -1)[edge : edge + side, edge : edge + side]
        return table.reshape(-1)[start:stop]

    return Tensors(tensors.where, {**tensors.infos, name: new}, piece, tensors.metadata)


def parity(table: int) -> str:
    """What a side has to be so that it leaves a centre of a table: what the table's side is."""
    return "an odd" if table % 2 else "an even"


def transformer_rows(config: MMDiTConfig, naming: str) -> list[Row]:
    """Where every leaf lies under `naming`, "sai" or "diffusers"."""
    leaves = trees.flatten(abstract_transformer(config))
    return [
        found
        for path, leaf in leaves.items()
        for found in _leaf_rows(path, leaf.shape, config, naming)
    ]


@trees.computed_once
def abstract_transformer(config: MMDiTConfig) -> Params:
    """The shapes of the parameter tree; nothing is computed."""
    cond = Cond(jnp.zeros((1, 1, config.text_width)), jnp.zeros((1, config.pooled_width)))
    latents = jnp.zeros((1, config.patch, config.patch, config.channels))
    model = MMDiT(config)
    return jax.eval_shape(
        functools.partial(init, model), jax.random.key(0), latents, jnp.ones((1,)), cond
    )


def _leaf_rows(path: str, shape: Shape, config: MMDiTConfig, naming: str) -> list[Row]:
    """One row; one for every layer of a scanned group."""
    module, suffix = split_path(path)
    group, _, inner = module.partition("/")
    first_blocks = {"dual": 0, "joint": config.dual}
    if group in first_blocks:
        layout, first = _layout(path, shape[1:], config), first_blocks[group]
        return [
            row(path, _keys(inner, suffix, naming, block=first + layer), layout, layer=layer)
            for layer in range(shape[0])
        ]
    keys = (
        _keys(inner, suffix, naming, block=config.depth - 1)
        if group == "last"
        else _keys(module, suffix, naming)
    )
    return [row(path, keys, _layout(path, shape, config), swap=module in SWAPPED[naming])]


def _keys(module: str, suffix: str, naming: str, *, block: int | None = None) -> tuple[str, ...]:
    prefix = "" if block is None else BLOCK_PREFIX[naming].format(block)
    return tuple(prefix + key + suffix for key in _KEYS[naming][module].split())


def _layout(path: str, leaf: Shape, config: MMDiTConfig) -> Layout:
    if path == "position":
        return reshaped(leaf, (1, leaf[0] * leaf[1], leaf[2]))
    if path == "patch_embed/kernel":
        return conv(leaf, split=(config.patch, config.patch, config.channels, config.width))
    if path.endswith(("/proj/kernel", "/proj2/kernel")):
        return linear(leaf, inputs=2)
    return linear(leaf) if path.endswith("/kernel") else vector(leaf)
