"""The towers that judge pictures, between flashjax's names and transformers'.

Source: keys of transformers `CLIPModel` and `Dinov2Model`.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp

from flashjax import trees
from flashjax.convert import vit_configs
from flashjax.convert.blocks import block_rows, layout
from flashjax.convert.table import (
    AS_STORED,
    FLOAT32,
    Layout,
    Placement,
    Row,
    conv,
    from_tensors,
    reshaped,
    to_tensors,
)
from flashjax.convert.tensors import Shape, Tensors
from flashjax.convert.text import clip_from
from flashjax.convert.weights import open_weights
from flashjax.data.jsons import read_json
from flashjax.models.clip import CLIPConfig
from flashjax.models.layers import init
from flashjax.models.vit import ViT, ViTConfig
from flashjax.types import InputError, Params

# flashjax module, transformers keys (several: the parts of a fused projection); {} is the layer.
CLIP = {
    "class": "vision_model.embeddings.class_embedding",
    "positions": "vision_model.embeddings.position_embedding.weight",
    "patches": "vision_model.embeddings.patch_embedding",
    "norm_first": "vision_model.pre_layrnorm",
    "norm": "vision_model.post_layernorm",
    "projection": "visual_projection",
    "block/norm1": "vision_model.encoder.layers.{}.layer_norm1",
    "block/qkv": "vision_model.encoder.layers.{}.self_attn.q_proj "
    "vision_model.encoder.layers.{}.self_attn.k_proj "
    "vision_model.encoder.layers.{}.self_attn.v_proj",
    "block/proj": "vision_model.encoder.layers.{}.self_attn.out_proj",
    "block/norm2": "vision_model.encoder.layers.{}.layer_norm2",
    "block/fc1": "vision_model.encoder.layers.{}.mlp.fc1",
    "block/fc2": "vision_model.encoder.layers.{}.mlp.fc2",
}
DINOV2 = {
    "class": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "block/norm1": "encoder.layer.{}.norm1",
    "block/qkv": "encoder.layer.{}.attention.attention.query "
    "encoder.layer.{}.attention.attention.key "
    "encoder.layer.{}.attention.attention.value",
    "block/proj": "encoder.layer.{}.attention.output.dense",
    "block/scale1": "encoder.layer.{}.layer_scale1.lambda1",
    "block/norm2": "encoder.layer.{}.norm2",
    "block/fc1": "encoder.layer.{}.mlp.fc1",
    "block/fc2": "encoder.layer.{}.mlp.fc2",
    "block/scale2": "encoder.layer.{}.layer_scale2.lambda1",
}
_IDS = "vision_model.embeddings.position_ids"  # 0, 1, 2, ...: older files carry them
_MASK = "embeddings.mask_token"  # what training showed for hidden patches
_SCALE = "logit_scale"


@dataclasses.dataclass(frozen=True, eq=False)
class TwoTowers:
    """A CLIP: both towers end in the same space; `scale` multiplies the cosine of two vectors."""

    vision: Params
    vision_config: ViTConfig
    text: Params
    text_config: CLIPConfig
    scale: float


def read_clip_model(folder: Path, placement: Placement = FLOAT32) -> TwoTowers:
    """The CLIPModel of a folder. InputError for what is missing, broken or another model."""
    where = folder / "config.json"
    vision, text = vit_configs.clip_model_config_from_transformers(read_json(where), str(where))
    tensors = open_weights(folder, "model")
    if _SCALE not in tensors:
        raise InputError(
            f"{tensors.where} lacks {_SCALE}: give a whole CLIPModel, with both towers"
        )
    seeing = tensors.without(_SCALE, *_named(tensors, "text_"))
    return TwoTowers(
        vision=vit_from(seeing, vision, CLIP, placement),
        vision_config=vision,
        text=clip_from(tensors.without(*seeing, _SCALE), text, placement),
        text_config=text,
        scale=float(jnp.exp(jnp.float32(tensors[_SCALE]))),
    )


def read_dinov2(folder: Path, placement: Placement = FLOAT32) -> tuple[Params, ViTConfig]:
    """The Dinov2Model of a folder. InputError for what is missing, broken or another model."""
    where = folder / "config.json"
    config = vit_configs.dinov2_config_from_transformers(read_json(where), str(where))
    return vit_from(open_weights(folder, "model"), config, DINOV2, placement), config


def vit_from(
    tensors: Tensors, config: ViTConfig, table: dict[str, str], placement: Placement = AS_STORED
) -> Params:
    """The parameter tree of tensors named by `table`. InputError if they are not `config`'s."""
    return from_tensors(vit_rows(config, table), tensors.without(_IDS, _MASK), placement)


def vit_to(params: Params, config: ViTConfig, table: dict[str, str]) -> Tensors:
    """The tensors of a parameter tree, named by `table`."""
    return to_tensors(vit_rows(config, table), params)


def vit_rows(config: ViTConfig, table: dict[str, str]) -> list[Row]:
    """Where every leaf lies under the names of `table`."""
    layouts = functools.partial(_layout, ones=2 if table is DINOV2 else 0)
    return block_rows(table, abstract_vit(config), depth=config.depth, layouts=layouts)


@trees.computed_once
def abstract_vit(config: ViTConfig) -> Params:
    """The shapes of the parameter tree; nothing is computed."""
    image = jnp.zeros((1, config.side, config.side, 3))
    return jax.eval_shape(functools.partial(init, ViT(config)), jax.random.key(0), image)


def _layout(path: str, leaf: Shape, *, ones: int) -> Layout:
    """DINOv2's class token and positions are stored with `ones` dims, as a batch of sequences."""
    if path == "patches/kernel":
        return conv(leaf)
    if "/" not in path:
        return reshaped(leaf, (1,) * (1 + ones - len(leaf)) + leaf)
    return layout(path, leaf)


def _named(tensors: Tensors, prefix: str) -> list[str]:
    return [name for name in tensors if name.startswith(prefix)]
