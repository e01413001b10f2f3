"""The text encoders between flashjax's names and transformers'.

Source: keys of transformers `CLIPTextModelWithProjection` and `T5EncoderModel`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flashjax import trees
from flashjax.convert.blocks import block_rows
from flashjax.convert.naming import network
from flashjax.convert.table import (
    AS_STORED,
    Placement,
    Row,
    from_tensors,
    to_tensors,
)
from flashjax.convert.tensors import Info, Tensors, in_memory, joined
from flashjax.models.clip import CLIPConfig, CLIPText
from flashjax.models.layers import init
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.models.text import AbsentT5, TextConfig
from flashjax.types import InputError, Params

# flashjax module, transformers keys (several: the parts of a fused projection); {} is the layer.
CLIP = {
    "tokens": "text_model.embeddings.token_embedding.weight",
    "positions": "text_model.embeddings.position_embedding.weight",
    "norm": "text_model.final_layer_norm",
    "projection": "text_projection",
    "block/norm1": "text_model.encoder.layers.{}.layer_norm1",
    "block/qkv": "text_model.encoder.layers.{}.self_attn.q_proj "
    "text_model.encoder.layers.{}.self_attn.k_proj "
    "text_model.encoder.layers.{}.self_attn.v_proj",
    "block/proj": "text_model.encoder.layers.{}.self_attn.out_proj",
    "block/norm2": "text_model.encoder.layers.{}.layer_norm2",
    "block/fc1": "text_model.encoder.layers.{}.mlp.fc1",
    "block/fc2": "text_model.encoder.layers.{}.mlp.fc2",
}
T5 = {
    "tokens": "shared.weight",
    "position_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "norm": "encoder.final_layer_norm",
    "block/norm1": "encoder.block.{}.layer.0.layer_norm",
    "block/qkv": "encoder.block.{}.layer.0.SelfAttention.q "
    "encoder.block.{}.layer.0.SelfAttention.k "
    "encoder.block.{}.layer.0.SelfAttention.v",
    "block/proj": "encoder.block.{}.layer.0.SelfAttention.o",
    "block/norm2": "encoder.block.{}.layer.1.layer_norm",
    "block/gates": "encoder.block.{}.layer.1.DenseReluDense.wi_0 "
    "encoder.block.{}.layer.1.DenseReluDense.wi_1",
    "block/out": "encoder.block.{}.layer.1.DenseReluDense.wo",
}
_PROJECTION = "text_projection.weight"
TWIN = "encoder.embed_tokens.weight"  # the token table of T5 once more
_COMPARED = 2**24  # elements of both tables at a time


def clip_is_projected(tensors: Tensors) -> bool:
    """False where `text_projection` is the identity or absent: files say "no projection" so."""
    if _PROJECTION not in tensors:
        return False
    projection = tensors[_PROJECTION]
    return not np.array_equal(projection, np.eye(projection.shape[-1]))


def clip_from(tensors: Tensors, config: CLIPConfig, placement: Placement = AS_STORED) -> Params:
    """The parameter tree of `CLIPTextModelWithProjection`. InputError if not exactly `config`'s."""
    tensors = network(tensors, "clip", "transformers")
    if not config.projection:
        if clip_is_projected(tensors):
            raise InputError(f"{tensors.where}: {_PROJECTION} is no identity, but projection is 0")
        tensors = tensors.without(_PROJECTION)
    return from_tensors(clip_rows(config), tensors, placement)


def clip_to(params: Params, config: CLIPConfig) -> Tensors:
    """The tensors of `CLIPTextModelWithProjection`; no projection is written as the identity."""
    tensors = to_tensors(clip_rows(config), params)
    if config.projection:
        return tensors
    dtype = tensors.infos[CLIP["tokens"]].dtype
    return joined(tensors, in_memory({_PROJECTION: np.eye(config.width, dtype=dtype)}))


def t5_from(tensors: Tensors, config: T5Config, placement: Placement = AS_STORED) -> Params:
    """The parameter tree of `T5EncoderModel`. InputError if its tensors are not `config`'s."""
    return from_tensors(
        t5_rows(config), one_table(network(tensors, "t5", "transformers")), placement
    )


def one_table(tensors: Tensors) -> Tensors:
    """T5's tensors with one table of tokens, under whichever name it is: files have it twice.

    InputError where the two differ.
    """
    name = T5["tokens"]
    if TWIN not in tensors:
        return tensors
    if name not in tensors:
        names = {old: name if old == TWIN else old for old in tensors}
        return tensors.renamed(names, where=tensors.where)
    if tensors.infos[name] != tensors.infos[TWIN] or not _equal(tensors, name, TWIN):
        raise InputError(f"{tensors.where}: {name} and {TWIN} differ, and are one table in T5")
    return tensors.without(TWIN)


def _equal(tensors: Tensors, first: str, second: str) -> bool:
    """Whether two tensors of one size and dtype are the same to the bit."""
    size = tensors.infos[first].size
    pieces = ((start, min(start + _COMPARED, size)) for start in range(0, size, _COMPARED))
    return all(
        tensors.piece(first, *ends).tobytes() == tensors.piece(second, *ends).tobytes()
        for ends in pieces
    )


def t5_to(params: Params, config: T5Config) -> Tensors:
    """The tensors of `T5EncoderModel`, its token table under both names."""
    tensors = to_tensors(t5_rows(config), params)
    twin = tensors.renamed({T5["tokens"]: TWIN}, where=tensors.where)
    return joined(tensors, twin)


def t5_infos(config: T5Config, dtype: np.dtype) -> dict[str, Info]:
    """Names and shapes of the tensors of `t5_to`, the token table once."""
    return {key: Info(row.shape, dtype) for row in t5_rows(config) for key in row.keys}


def clip_rows(config: CLIPConfig) -> list[Row]:
    """Where every leaf of a CLIP lies in a file."""
    return _rows(CLIP, CLIPText(config))


def t5_rows(config: T5Config) -> list[Row]:
    """Where every leaf of a T5 lies in a file."""
    return _rows(T5, T5Encoder(config))


def abstract_clip(config: CLIPConfig) -> Params:
    """The shapes of the parameter tree; nothing is computed."""
    return _abstract(CLIPText(config))


def abstract_t5(config: T5Config) -> Params:
    """The shapes of the parameter tree; nothing is computed."""
    return _abstract(T5Encoder(config))


def abstract_text(config: TextConfig) -> Params:
    """The shapes of the three encoders' trees, of two where T5 is absent."""
    trees = {"clip_l": abstract_clip(config.clip_l), "clip_g": abstract_clip(config.clip_g)}
    return trees if isinstance(config.t5, AbsentT5) else trees | {"t5": abstract_t5(config.t5)}


@trees.computed_once
def _abstract(model: CLIPText | T5Encoder) -> Params:
    ids = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(functools.partial(init, model), jax.random.key(0), ids)


def _rows(table: dict[str, str], model: CLIPText | T5Encoder) -> list[Row]:
    """Where every leaf lies."""
    return block_rows(table, _abstract(model), depth=model.config.depth)
