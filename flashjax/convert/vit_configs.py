"""Config.json of transformers' CLIPModel and Dinov2Model, read as those classes read them."""

from flashjax.convert.configs import Json, clip_config_from_transformers
from flashjax.convert.fields import Fields
from flashjax.models.clip import ACTIVATIONS, CLIPConfig
from flashjax.models.vit import ViTConfig


def clip_model_config_from_transformers(config: Json, where: str) -> tuple[ViTConfig, CLIPConfig]:
    """Of `CLIPModel`'s config: the tower that sees, and the one that reads."""
    read = Fields(config, _CLIP_MODEL, where)
    read.require("model_type", "clip")
    projection = read.whole("projection_dim")

    def tower(name: str, defaults: Json) -> tuple[Json, str]:
        # Files of 2022 have the same once more, as `text_config_dict`: it is what counts.
        legacy = config.get(f"{name}_dict") or {}
        return defaults | (read(name) or {}) | legacy | {
            "projection_dim": projection
        }, f"{where} {name}"

    text = clip_config_from_transformers(*tower("text_config", _CLIP_TEXT), projected=True)
    given, place = tower("vision_config", _CLIP_VISION)
    read = Fields(given, _CLIP_VISION, place)
    read.require("hidden_act", *ACTIVATIONS)
    read.require("num_channels", 3)
    vision = ViTConfig(
        side=read.whole("image_size"),
        patch=read.whole("patch_size"),
        width=read.whole("hidden_size"),
        depth=read.whole("num_hidden_layers"),
        heads=read.whole("num_attention_heads"),
        hidden=read.whole("intermediate_size"),
        activation=read("hidden_act"),
        epsilon=read.number("layer_norm_eps", above=0),
        norm_first=True,
        projection=projection,
    )
    return vision, text


def dinov2_config_from_transformers(config: Json, where: str) -> ViTConfig:
    """Of `Dinov2Model`'s config. The giant one is refused: its MLP is gated."""
    read = Fields(config, _DINOV2, where)
    read.require("model_type", "dinov2")
    read.require("hidden_act", *ACTIVATIONS)
    read.require("num_channels", 3)
    read.require("qkv_bias", True)
    read.require("use_swiglu_ffn", False)
    return ViTConfig(
        side=read.whole("image_size"),
        patch=read.whole("patch_size"),
        width=read.whole("hidden_size"),
        depth=read.whole("num_hidden_layers"),
        heads=read.whole("num_attention_heads"),
        hidden=read.whole("hidden_size") * read.whole("mlp_ratio"),
        activation=read("hidden_act"),
        epsilon=read.number("layer_norm_eps", above=0),
        patch_bias=True,
        layer_scale=True,
    )


# What transformers' classes take for keys that a file leaves out.
_CLIP_MODEL: Json = {
    "model_type": None,
    "projection_dim": 512,
    "text_config": {},
    "vision_config": {},
}
_CLIP_TEXT: Json = {
    "eos_token_id": 49407,
    "hidden_act": "quick_gelu",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "num_attention_heads": 8,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
_CLIP_VISION: Json = {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 32,
}
_DINOV2: Json = {
    "model_type": None,
    "hidden_act": "gelu",
    "hidden_size": 768,
    "image_size": 224,
    "layer_norm_eps": 1e-6,
    "mlp_ratio": 4,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 14,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
