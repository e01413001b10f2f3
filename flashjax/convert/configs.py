"""Our config classes to and from the config.json files of diffusers and transformers.

Written files say all that matters, so that no version's defaults change them. Read ones may leave
keys out, as released ones do: the defaults below are those of diffusers' and transformers' own
classes. What our models do not compute is refused by its key.
"""

import dataclasses
from typing import Any

from flashjax.convert.fields import Fields
from flashjax.flow.schedule import TRAIN_STEPS, Schedule
from flashjax.models.clip import ACTIVATIONS, CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.vae import VAEConfig
from flashjax.types import InputError

Json = dict[str, Any]
DIFFUSERS_VERSION = "0.42.1"  # the one that written folders are tested with
DEEPEST, WIDEST = 1000, 4096  # layers; patches a side and channels of latents: no SD3 has more

TRANSFORMER: Json = {
    "_class_name": "SD3Transformer2DModel",
    "quantization_config": None,
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 18,
    "attention_head_dim": 64,
    "num_attention_heads": 18,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "pos_embed_max_size": 96,
    "dual_attention_layers": (),
    "qk_norm": None,
}
VAE: Json = {
    "_class_name": "AutoencoderKL",
    "quantization_config": None,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
SCHEDULER: Json = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": TRAIN_STEPS,
    **dataclasses.asdict(Schedule()),
    "shift_terminal": None,
    "invert_sigmas": False,
    "stochastic_sampling": False,
}
CLIP: Json = {
    "model_type": "clip_text_model",
    "quantization_config": None,
    "transformers_weights": None,
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
T5: Json = {
    "model_type": "t5",
    "quantization_config": None,
    "transformers_weights": None,
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
}


def mmdit_config_from_diffusers(config: Json, where: str) -> MMDiTConfig:
    """Of `SD3Transformer2DModel`'s config; `where` names its file in messages."""
    read = Fields(config, TRANSFORMER, where)
    read.require("_class_name", TRANSFORMER["_class_name"])
    _require_codes(read)
    depth = read.whole("num_layers", most=DEEPEST)
    mmdit = MMDiTConfig(
        depth=depth,
        heads=read.whole("num_attention_heads"),
        dual=_leading(read, "dual_attention_layers", depth),
        position_size=read.whole("pos_embed_max_size", most=WIDEST),
        text_width=read.whole("joint_attention_dim"),
        pooled_width=read.whole("pooled_projection_dim"),
        head_width=read.whole("attention_head_dim"),
        channels=read.whole("in_channels", most=WIDEST),
        patch=read.whole("patch_size", most=64),
        qk_norm=read.require("qk_norm", "rms_norm", None) is not None,
    )
    read.require("out_channels", mmdit.channels, None)
    read.require("caption_projection_dim", mmdit.width)
    if mmdit.width % 4:
        raise read.refused("attention_head_dim", "a width of the model that 4 divides")
    read.say_unknown()
    return mmdit


def _require_codes(read: Fields) -> None:
    """InputError for codes that are not made weights again when they are read."""
    how = read("quantization_config")
    said = how if isinstance(how, dict) else {}
    method = said.get("quant_method")
    eight_bits = method == "bitsandbytes" and said.get("load_in_8bit") is True
    if how is not None and method != "torchao" and not eight_bits:
        raise read.refused("quantization_config", "none, torchao's, or bitsandbytes' 8 bits,")


def _leading(read: Fields, key: str, depth: int) -> int:
    """How many blocks the list `key` names: of `depth` those from the first on, never the last."""
    layers = read(key)
    if not isinstance(layers, list | tuple) or not all(type(layer) is int for layer in layers):
        raise read.refused(key, "a list of whole numbers")
    found = {layer for layer in layers if 0 <= layer < depth}  # diffusers leaves others aside
    if found != set(range(len(found))) or len(found) == depth:
        raise read.refused(key, f"0, 1, 2, ... up to {depth - 2} at most")
    return len(found)


def sample_size_from_diffusers(config: Json, where: str) -> int:
    """The side of the latents that a transformer draws unless told otherwise."""
    return Fields(config, TRANSFORMER, where).whole("sample_size")


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
    read = Fields(config, VAE, where)
    for key in ("_class_name", "in_channels", "out_channels", "mid_block_add_attention"):
        read.require(key, VAE[key])
    _require_codes(read)
    for key in ("latents_mean", "latents_std"):
        read.require(key, None)
    for key in ("use_quant_conv", "use_post_quant_conv"):
        read.require(key, False)
    read.require("act_fn", "silu", "swish")
    channels, groups = read.wholes("block_out_channels", most=8), read.whole("norm_num_groups")
    for key in ("down_block_types", "up_block_types"):
        wanted = [*VAE[key]] * len(channels)
        if read(key) not in (wanted, tuple(wanted)):
            raise read.refused(key, f"{VAE[key][0]!r} for each of {len(channels)} levels")
    if any(size % groups for size in channels):
        raise read.refused("norm_num_groups", f"what divides block_out_channels {list(channels)}")
    read.say_unknown()
    return VAEConfig(
        channels=channels,
        layers=read.whole("layers_per_block", most=DEEPEST),
        groups=groups,
        latent_channels=read.whole("latent_channels", most=WIDEST),
        scaling_factor=read.number("scaling_factor", above=0),
        shift_factor=0.0 if read("shift_factor") is None else read.number("shift_factor"),
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


def schedule_from_diffusers(config: Json, where: str) -> Schedule:
    """Of `FlowMatchEulerDiscreteScheduler`'s config."""
    read = Fields(config, SCHEDULER, where)
    for key in ("_class_name", "num_train_timesteps", "invert_sigmas", "stochastic_sampling"):
        read.require(key, SCHEDULER[key])
    dynamic = read.flag("use_dynamic_shifting")
    spacings = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    if sum(map(read.flag, spacings)) > 1:
        raise InputError(f"{where}: only one of {', '.join(spacings)} can be true")
    terminal = 0.0 if read("shift_terminal") is None else read.number("shift_terminal")
    if not 0 <= terminal < 1:
        raise read.refused("shift_terminal", "a number from 0 to below 1")
    schedule = Schedule(
        shift=read.number("shift", above=0),
        use_dynamic_shifting=dynamic,
        base_shift=read.number("base_shift"),
        max_shift=read.number("max_shift"),
        base_image_seq_len=read.whole("base_image_seq_len"),
        max_image_seq_len=read.whole("max_image_seq_len"),
        time_shift_type=read.require("time_shift_type", "exponential", "linear"),
        shift_terminal=terminal,
        **{key: read.flag(key) for key in spacings},
    )
    if dynamic and schedule.base_image_seq_len == schedule.max_image_seq_len:
        raise read.refused("max_image_seq_len", "another number than base_image_seq_len")
    read.say_unknown()
    return schedule


def schedule_to_diffusers(schedule: Schedule) -> Json:
    """The scheduler_config.json of `FlowMatchEulerDiscreteScheduler`."""
    fields = dataclasses.asdict(schedule)
    if not schedule.shift_terminal:
        del fields["shift_terminal"]
    return {
        "_class_name": SCHEDULER["_class_name"],
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": TRAIN_STEPS,
        **fields,
    }


def clip_config_from_transformers(config: Json, where: str, *, projected: bool) -> CLIPConfig:
    """Of `CLIPTextModelWithProjection`'s config; `projected` is False where it is the identity.

    Of a whole CLIP's config it is the part of the text encoder.
    """
    if config.get("model_type") == "clip" and isinstance(config.get("text_config"), dict):
        config, where = config["text_config"], f"{where}, text_config"
    read = Fields(config, CLIP, where)
    read.require("model_type", "clip_text_model", "clip")
    _require_codes(read)
    read.require("transformers_weights", None)
    read.require("layer_norm_eps", 1e-5)
    width, heads = read.whole("hidden_size"), read.whole("num_attention_heads")
    if width % heads:
        raise read.refused("num_attention_heads", f"what divides hidden_size {width}")
    # Either way the first end-of-text is pooled, if it has the largest id: 2 means just that.
    read.require("eos_token_id", 2, read.whole("vocab_size") - 1)
    return CLIPConfig(
        vocabulary=read.whole("vocab_size"),
        length=read.whole("max_position_embeddings"),
        width=width,
        depth=read.whole("num_hidden_layers", most=DEEPEST),
        heads=heads,
        hidden=read.whole("intermediate_size"),
        activation=read.require("hidden_act", *ACTIVATIONS),
        projection=read.whole("projection_dim") if projected else 0,
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
    # Two keys of older files say once more, and with the last word, what the third one says.
    gated, _, act = str(config.get("feed_forward_proj", T5["feed_forward_proj"])).rpartition("-")
    act = "gelu_new" if (gated, act) == ("gated", "gelu") else act
    read = Fields(config, T5 | {"dense_act_fn": act, "is_gated_act": gated == "gated"}, where)
    read.require("model_type", "t5", "mt5")
    _require_codes(read)
    read.require("transformers_weights", None)
    for key, wanted in (("is_gated_act", True), ("dense_act_fn", "gelu_new")):
        if read(key) != wanted:
            key = key if key in config else "feed_forward_proj"
            raise read.refused(key, "'gated-gelu', of T5 v1.1,")
    read.require("layer_norm_epsilon", 1e-6)
    buckets = read.whole("relative_attention_num_buckets")
    distance = read.whole("relative_attention_max_distance")
    if not 1 <= buckets // 4 < distance:
        raise read.refused("relative_attention_num_buckets", "4 or more, a quarter of them nearer")
    return T5Config(
        vocabulary=read.whole("vocab_size"),
        width=read.whole("d_model"),
        depth=read.whole("num_layers", most=DEEPEST),
        heads=read.whole("num_heads"),
        head_width=read.whole("d_kv"),
        hidden=read.whole("d_ff"),
        buckets=buckets,
        max_distance=distance,
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
