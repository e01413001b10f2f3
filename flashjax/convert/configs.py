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


class Reader:
    """Reads keys of a config; one that is absent or means another model is an InputError."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config, self._where = config, where

    def __call__(self, key: str) -> Any:
        if key not in self._config:
            raise InputError(f"{self._where} lacks {key}: it is not part of an SD3 model")
        return self._config[key]

    def require(self, key: str, *known: Any) -> None:
        if self(key) not in known:
            wanted = " or ".join(map(repr, known))
            raise InputError(f"{self._where}: {key} is {self(key)!r}; only {wanted} is supported")
