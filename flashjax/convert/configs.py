"""Our config classes to and from the config.json files of diffusers and transformers.

Written files say all that matters, so that no version's defaults change them; reading refuses what
our models do not compute.
"""

from collections.abc import Mapping
from typing import Any

from flashjax.models.clip import ACTIVATIONS, CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.vae import VAEConfig
from flashjax.models.vit import ViTConfig
from flashjax.types import InputError

Json = dict[str, Any]
DIFFUSERS_VERSION = "0.42.1"  # the one that written folders are tested with


def mmdit_config_from_diffusers(config: Json, where: str) -> MMDiTConfig:
    """Of `SD3Transformer2DModel`'s config; `where` names its file in messages."""
    read = Reader(config, where)
    depth, dual = read("num_layers"), list(read("dual_attention_layers"))
    mmdit = MMDiTConfig(
        depth=depth,
        heads=read("num_attention_heads"),
        dual=min(len(dual), depth - 1),
        position_size=read("pos_embed_max_size"),
        text_width=read("joint_attention_dim"),
        pooled_width=read("pooled_projection_dim"),
        head_width=read("attention_head_dim"),
        channels=read("in_channels"),
        patch=read("patch_size"),
        qk_norm=read("qk_norm") is not None,
    )
    read.require("dual_attention_layers", list(range(mmdit.dual)))
    read.require("qk_norm", "rms_norm", None)
    read.require("out_channels", mmdit.channels)
    read.require("caption_projection_dim", mmdit.width)
    return mmdit


def mmdit_config_to_diffusers(config: MMDiTConfig, *, sample_size: int) -> Json:
    """`sample_size` is the side of the latents that a pipeline makes unless told otherwise."""
    if config.mlp_ratio != 4:
        raise InputError(
            f"mlp_ratio={config.mlp_ratio} is unknown to diffusers, whose MLP is 4 times as wide; "
            "set model.mlp_ratio to 4"
        )
    return {
        "_class_name": "SD3Transformer2DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "attention_head_dim": config.head_width,
        "caption_projection_dim": config.width,
        "dual_attention_layers": list(range(config.dual)),
        "in_channels": config.channels,
        "joint_attention_dim": config.text_width,
        "num_attention_heads": config.heads,
        "num_layers": config.depth,
        "out_channels": config.channels,
        "patch_size": config.patch,
        "pooled_projection_dim": config.pooled_width,
        "pos_embed_max_size": config.position_size,
        "qk_norm": "rms_norm" if config.qk_norm else None,
        "sample_size": sample_size,
    }


def vae_config_from_diffusers(config: Json, where: str) -> VAEConfig:
    """Of `AutoencoderKL`'s config."""
    read = Reader(config, where)
    for key in ("use_quant_conv", "use_post_quant_conv"):
        read.require(key, False)
    read.require("mid_block_add_attention", True)
    read.require("act_fn", "silu")
    return VAEConfig(
        channels=tuple(read("block_out_channels")),
        layers=read("layers_per_block"),
        groups=read("norm_num_groups"),
        latent_channels=read("latent_channels"),
        scaling_factor=read("scaling_factor"),
        shift_factor=read("shift_factor") or 0.0,
    )


def vae_config_to_diffusers(config: VAEConfig) -> Json:
    """The config.json of `AutoencoderKL`."""
    levels = len(config.channels)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers,
        "mid_block_add_attention": True,
        "norm_num_groups": config.groups,
        "out_channels": 3,
        "sample_size": 128 * config.factor,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    }


def clip_config_from_transformers(config: Json, where: str, *, projected: bool) -> CLIPConfig:
    """Of `CLIPTextModelWithProjection`'s config; `projected` is False where it is the identity."""
    read = Reader(config, where)
    read.require("hidden_act", *ACTIVATIONS)
    read.require("layer_norm_eps", 1e-5)
    # Either way the first end-of-text is pooled, if it has the largest id: 2 means just that.
    read.require("eos_token_id", 2, read("vocab_size") - 1)
    return CLIPConfig(
        vocabulary=read("vocab_size"),
        length=read("max_position_embeddings"),
        width=read("hidden_size"),
        depth=read("num_hidden_layers"),
        heads=read("num_attention_heads"),
        hidden=read("intermediate_size"),
        activation=read("hidden_act"),
        projection=read("projection_dim") if projected else 0,
    )


def clip_config_to_transformers(config: CLIPConfig) -> Json:
    """The config.json of `CLIPTextModelWithProjection`; `eos_token_id` is SD3's legacy value."""
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": config.length,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.depth,
        "projection_dim": config.projection or config.width,
        "vocab_size": config.vocabulary,
    }


def t5_config_from_transformers(config: Json, where: str) -> T5Config:
    """Of `T5EncoderModel`'s config."""
    read = Reader(config, where)
    read.require("feed_forward_proj", "gated-gelu")
    read.require("layer_norm_epsilon", 1e-6)
    return T5Config(
        vocabulary=read("vocab_size"),
        width=read("d_model"),
        depth=read("num_layers"),
        heads=read("num_heads"),
        head_width=read("d_kv"),
        hidden=read("d_ff"),
        buckets=read("relative_attention_num_buckets"),
        max_distance=read("relative_attention_max_distance"),
    )


def t5_config_to_transformers(config: T5Config) -> Json:
    """The config.json of `T5EncoderModel`."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_ff": config.hidden,
        "d_kv": config.head_width,
        "d_model": config.width,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "layer_norm_epsilon": 1e-6,
        "num_heads": config.heads,
        "num_layers": config.depth,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.max_distance,
        "relative_attention_num_buckets": config.buckets,
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": config.vocabulary,
    }


def clip_model_config_from_transformers(config: Json, where: str) -> tuple[ViTConfig, CLIPConfig]:
    """Of `CLIPModel`'s config: the tower that sees, and the one that reads."""
    read = Reader(_CLIP_MODEL | config, where, model="a CLIPModel")
    read.require("model_type", "clip")
    projection = read.count("projection_dim")

    def tower(name: str, defaults: Json) -> tuple[Json, str]:
        # Files of 2022 have the same once more, as `text_config_dict`: it is what counts.
        legacy = config.get(f"{name}_dict") or {}
        return defaults | (read(name) or {}) | legacy | {
            "projection_dim": projection
        }, f"{where} {name}"

    text = clip_config_from_transformers(*tower("text_config", _CLIP_TEXT), projected=True)
    read = Reader(*tower("vision_config", _CLIP_VISION), model="a CLIPModel")
    read.require("hidden_act", *ACTIVATIONS)
    read.require("num_channels", 3)
    vision = ViTConfig(
        side=read.count("image_size"),
        patch=read.count("patch_size"),
        width=read.count("hidden_size"),
        depth=read.count("num_hidden_layers"),
        heads=read.count("num_attention_heads"),
        hidden=read.count("intermediate_size"),
        activation=read("hidden_act"),
        epsilon=read("layer_norm_eps"),
        norm_first=True,
        projection=projection,
    )
    return vision, text


def dinov2_config_from_transformers(config: Json, where: str) -> ViTConfig:
    """Of `Dinov2Model`'s config. The giant one is refused: its MLP is gated."""
    read = Reader(_DINOV2 | config, where, model="a Dinov2Model")
    read.require("model_type", "dinov2")
    read.require("hidden_act", *ACTIVATIONS)
    read.require("num_channels", 3)
    read.require("qkv_bias", True)
    read.require("use_swiglu_ffn", False)
    return ViTConfig(
        side=read.count("image_size"),
        patch=read.count("patch_size"),
        width=read.count("hidden_size"),
        depth=read.count("num_hidden_layers"),
        heads=read.count("num_attention_heads"),
        hidden=read.count("hidden_size") * read.count("mlp_ratio"),
        activation=read("hidden_act"),
        epsilon=read("layer_norm_eps"),
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


class Reader:
    """Reads keys of a config; one that is absent or means another model is an InputError."""

    def __init__(
        self, config: Mapping[str, Any], where: str, *, model: str = "an SD3 model"
    ) -> None:
        self._config, self._where, self._model = config, where, model

    def __call__(self, key: str) -> Any:
        if key not in self._config:
            raise InputError(f"{self._where} lacks {key}: it is not part of {self._model}")
        return self._config[key]

    def count(self, key: str) -> int:
        """A whole number above 0."""
        value = self(key)
        if type(value) is not int or value < 1:
            raise InputError(f"{self._where}: {key} is {value!r}; it must be a number above 0")
        return value

    def require(self, key: str, *known: Any) -> None:
        if self(key) not in known:
            wanted = " or ".join(map(repr, known))
            raise InputError(f"{self._where}: {key} is {self(key)!r}; only {wanted} is supported")
