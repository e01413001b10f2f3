"""Configs that leave keys out: the oracles are the classes of diffusers and transformers."""

import inspect
import json
import math

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextConfig, T5Config

from flashjax.convert import configs
from flashjax.convert.transformer import transformer_rows
from flashjax.convert.vae import vae_rows
from flashjax.flow.schedule import Schedule, sampler_sigmas
from flashjax.types import InputError

# No value is a default, so that each key that is left out changes something.
TRANSFORMER = dict(
    sample_size=8,
    patch_size=4,
    in_channels=8,
    num_layers=3,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=24,
    caption_projection_dim=16,
    pooled_projection_dim=20,
    out_channels=8,
    pos_embed_max_size=6,
    dual_attention_layers=(0, 1),
    qk_norm="rms_norm",
)
VAE = dict(
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(64, 96),
    layers_per_block=2,
    latent_channels=16,
    norm_num_groups=8,
    sample_size=64,
    scaling_factor=1.5,
    shift_factor=0.25,
    use_quant_conv=False,
    use_post_quant_conv=False,
)
SCHEDULER = dict(
    shift=3.0,
    use_dynamic_shifting=True,
    base_shift=0.25,
    max_shift=2.0,
    base_image_seq_len=64,
    max_image_seq_len=1024,
    time_shift_type="linear",
    shift_terminal=0.05,
    use_karras_sigmas=True,
)
CLIP = dict(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    projection_dim=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=9,
    hidden_act="gelu",
    eos_token_id=2,
)
T5 = dict(
    vocab_size=60,
    d_model=48,
    d_kv=6,
    d_ff=70,
    num_layers=2,
    num_heads=3,
    relative_attention_num_buckets=16,
    relative_attention_max_distance=64,
    feed_forward_proj="gated-gelu",
)
# What a key's absence leaves is no SD3: widths that do not fit, layers that we do not compute.
MISFITS = {"attention_head_dim", "num_attention_heads", "caption_projection_dim"}
MISFITS |= {"in_channels", "out_channels"}
UNLIKE = {"down_block_types", "up_block_types", "block_out_channels"}
UNLIKE |= {"use_quant_conv", "use_post_quant_conv"}
OF_ALL = {"_class_name", "quantization_config", "model_type", "transformers_weights"}


def written(config):
    """The config.json that the library itself writes."""
    return json.loads(config.to_json_string())


def build(kind, config):
    with torch.device("meta"):
        return kind.from_config(config)


def shapes(rows):
    return {key: row.shape for row in rows for key in row.keys}


def torch_shapes(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        (SD3Transformer2DModel, configs.TRANSFORMER),
        (AutoencoderKL, configs.VAE),
        (FlowMatchEulerDiscreteScheduler, configs.SCHEDULER),
    ],
)
def test_the_defaults_are_those_of_diffusers(kind, defaults):
    signature = inspect.signature(kind.__init__).parameters
    theirs = {name: one.default for name, one in signature.items() if name != "self"}
    ours = {key: value for key, value in defaults.items() if key not in OF_ALL}
    assert ours == theirs
    assert defaults["_class_name"] == kind.__name__


@pytest.mark.parametrize(
    ("kind", "defaults"), [(CLIPTextConfig, configs.CLIP), (T5Config, configs.T5)]
)
def test_the_defaults_are_those_of_transformers(kind, defaults):
    for key, value in defaults.items():
        if key not in OF_ALL:
            assert getattr(kind(), key) == value, key


@pytest.mark.parametrize("key", [None, *TRANSFORMER])
def test_a_transformer_without_a_key_is_the_one_that_diffusers_builds(key):
    config = json.loads(json.dumps(TRANSFORMER))
    config.pop(key, None)
    model = build(SD3Transformer2DModel, config)
    if key in MISFITS:
        widths = model.context_embedder.out_features, model.inner_dim
        assert widths[0] != widths[1] or model.config.in_channels != model.out_channels
        with pytest.raises(InputError, match=r"^file.json: \w+ is .*; only .* is supported$"):
            configs.mmdit_config_from_diffusers(config, "file.json")
        return
    sizes = configs.mmdit_config_from_diffusers(config, "file.json")
    assert shapes(transformer_rows(sizes, "diffusers")) == torch_shapes(model)
    assert sizes.heads == model.config.num_attention_heads
    found = configs.sample_size_from_diffusers(config, "file.json")
    assert found == model.config.sample_size


@pytest.mark.parametrize("key", [None, *VAE])
def test_an_autoencoder_without_a_key_is_the_one_that_diffusers_builds(key):
    config = json.loads(json.dumps(VAE))
    config.pop(key, None)
    if key in UNLIKE:
        with pytest.raises(InputError, match=r"^file.json: \w+ is .*; only .* is supported$"):
            configs.vae_config_from_diffusers(config, "file.json")
        return
    model, sizes = build(AutoencoderKL, config), configs.vae_config_from_diffusers(config, "")
    assert shapes(vae_rows(sizes, "diffusers")) == torch_shapes(model)
    assert sizes.scaling_factor == model.config.scaling_factor
    assert sizes.shift_factor == (model.config.shift_factor or 0.0)
    assert sizes.groups == model.encoder.conv_norm_out.num_groups
    assert sizes.factor == 2 ** (len(model.config.block_out_channels) - 1)


@pytest.mark.parametrize("key", [None, *SCHEDULER])
def test_a_scheduler_without_a_key_gives_the_grid_of_diffusers(key):
    config = written(FlowMatchEulerDiscreteScheduler(**SCHEDULER))
    config.pop(key, None)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    schedule = configs.schedule_from_diffusers(config, "file.json")
    tokens = schedule.max_image_seq_len  # there a line that is drawn anew gives just max_shift
    mu = schedule.max_shift if schedule.use_dynamic_shifting else None
    scheduler.set_timesteps(7, mu=mu)
    found = sampler_sigmas(7, schedule, tokens)
    assert found == pytest.approx(scheduler.sigmas.numpy(), abs=1e-6)
    for name in SCHEDULER:
        assert getattr(schedule, name) == (scheduler.config[name] or 0.0), name


@pytest.mark.parametrize("schedule", [Schedule(2.0), Schedule(**SCHEDULER)])
def test_a_scheduler_is_written_as_diffusers_reads_it(schedule):
    config = configs.schedule_to_diffusers(schedule)
    assert configs.schedule_from_diffusers(config, "") == schedule
    scheduler, unused = FlowMatchEulerDiscreteScheduler.from_config(
        config, return_unused_kwargs=True
    )
    assert all(key.startswith("_") for key in unused)
    assert written(scheduler) | config == written(scheduler)


@pytest.mark.parametrize("key", [None, *CLIP])
def test_a_clip_without_a_key_has_the_sizes_of_transformers(key):
    config = CLIPTextConfig(**CLIP).to_dict()
    config.pop(key, None)
    theirs = CLIPTextConfig.from_dict(dict(config))
    if key == "eos_token_id":
        assert theirs.eos_token_id >= theirs.vocab_size  # it is no token: the first one is pooled
        with pytest.raises(InputError, match=rf"^file.json: {key} is .*, the default where it is"):
            configs.clip_config_from_transformers(config, "file.json", projected=True)
        return
    sizes = configs.clip_config_from_transformers(config, "file.json", projected=True)
    assert (sizes.vocabulary, sizes.length) == (theirs.vocab_size, theirs.max_position_embeddings)
    assert (sizes.width, sizes.heads) == (theirs.hidden_size, theirs.num_attention_heads)
    assert (sizes.depth, sizes.hidden) == (theirs.num_hidden_layers, theirs.intermediate_size)
    assert (sizes.projection, sizes.activation) == (theirs.projection_dim, theirs.hidden_act)


def test_of_a_whole_clips_config_the_text_encoders_part_is_read():
    whole = {"model_type": "clip", "text_config": CLIP, "projection_dim": 7}
    read = configs.clip_config_from_transformers
    assert read(whole, "", projected=True) == read(CLIP, "", projected=True)


@pytest.mark.parametrize("key", [None, *T5])
def test_a_t5_without_a_key_has_the_sizes_of_transformers(key):
    config = T5Config(**T5).to_dict()
    for name in ("dense_act_fn", "is_gated_act") if key == "feed_forward_proj" else ():
        config.pop(name, None)
    config.pop(key, None)
    theirs = T5Config.from_dict(dict(config))
    if not theirs.is_gated_act:
        with pytest.raises(InputError, match=r"^f: feed_forward_proj is 'relu', the default where"):
            configs.t5_config_from_transformers(config, "f")
        return
    sizes = configs.t5_config_from_transformers(config, "f")
    assert (sizes.vocabulary, sizes.depth) == (theirs.vocab_size, theirs.num_layers)
    assert (sizes.width, sizes.hidden) == (theirs.d_model, theirs.d_ff)
    assert (sizes.heads, sizes.head_width) == (theirs.num_heads, theirs.d_kv)
    assert sizes.buckets == theirs.relative_attention_num_buckets
    assert sizes.max_distance == theirs.relative_attention_max_distance


@pytest.mark.parametrize(
    "said",
    [
        dict(feed_forward_proj="relu"),
        dict(feed_forward_proj="gated-silu"),
        dict(feed_forward_proj="gated-gelu", is_gated_act=False),
        dict(feed_forward_proj="gated-gelu", dense_act_fn="relu"),
        dict(feed_forward_proj="relu", dense_act_fn="gelu_new", is_gated_act=True),
        dict(feed_forward_proj="gated-gelu_new"),
    ],
)
def test_a_t5_is_refused_unless_transformers_gates_it_by_gelu(said):
    theirs = T5Config.from_dict(T5 | said)
    if (theirs.is_gated_act, theirs.dense_act_fn) == (True, "gelu_new"):
        assert configs.t5_config_from_transformers(T5 | said, "").heads == 3
        return
    with pytest.raises(InputError, match=r"only 'gated-gelu', of T5 v1.1, is supported"):
        configs.t5_config_from_transformers(T5 | said, "")


@pytest.mark.parametrize("layers", [[1], [0, 2], [0, 1, 2], [0, 0.5], None, "01", [True]])
def test_dual_layers_that_are_not_the_first_ones_are_refused(layers):
    with pytest.raises(InputError, match=r"^f: dual_attention_layers is "):
        configs.mmdit_config_from_diffusers(TRANSFORMER | {"dual_attention_layers": layers}, "f")


def test_dual_layers_may_be_disordered_and_lie_beyond_the_model_as_with_diffusers():
    given = TRANSFORMER | {"dual_attention_layers": [1, 0, 0, 12, -1]}
    sizes = configs.mmdit_config_from_diffusers(given, "")
    model = build(SD3Transformer2DModel, given)
    assert shapes(transformer_rows(sizes, "diffusers")) == torch_shapes(model)


def read_transformer(config, where):
    return configs.mmdit_config_from_diffusers(config, where), (
        configs.sample_size_from_diffusers(config, where)
    )


READERS = {
    "transformer": (read_transformer, TRANSFORMER, {}),
    "vae": (configs.vae_config_from_diffusers, VAE, {}),
    "scheduler": (configs.schedule_from_diffusers, SCHEDULER, {}),
    "clip": (configs.clip_config_from_transformers, CLIP, {"projected": True}),
    "t5": (configs.t5_config_from_transformers, T5, {}),
}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("transformer", "_class_name", "FluxTransformer2DModel"),
        ("transformer", "qk_norm", "layer_norm"),
        ("transformer", "out_channels", 4),
        ("transformer", "quantization_config", {"quant_method": "bitsandbytes"}),
        ("transformer", "quantization_config", "torchao"),
        ("vae", "quantization_config", {"quant_method": "gptq"}),
        ("vae", "_class_name", "AutoencoderTiny"),
        ("vae", "act_fn", "mish"),
        ("vae", "in_channels", 4),
        ("vae", "out_channels", 1),
        ("vae", "mid_block_add_attention", False),
        ("vae", "down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
        ("vae", "up_block_types", ["UpDecoderBlock2D"]),
        ("vae", "norm_num_groups", 7),
        ("vae", "latents_mean", [0.0] * 16),
        ("scheduler", "_class_name", "FlowMatchHeunDiscreteScheduler"),
        ("scheduler", "num_train_timesteps", 500),
        ("scheduler", "invert_sigmas", True),
        ("scheduler", "stochastic_sampling", True),
        ("scheduler", "time_shift_type", "cubic"),
        ("scheduler", "shift", 0),
        ("scheduler", "shift_terminal", 1.0),
        ("scheduler", "max_image_seq_len", 64),
        ("clip", "hidden_act", "gelu_new"),
        ("clip", "layer_norm_eps", 1e-6),
        ("clip", "eos_token_id", 7),
        ("clip", "model_type", "siglip_text_model"),
        ("clip", "transformers_weights", "other.safetensors"),
        ("t5", "model_type", "umt5"),
        ("t5", "layer_norm_epsilon", 1e-5),
        ("t5", "relative_attention_num_buckets", 3),
        ("t5", "quantization_config", {"quant_method": "bitsandbytes"}),
    ],
)
def test_what_no_model_of_ours_computes_is_refused_by_its_key(name, key, value):
    read, config, options = READERS[name]
    with pytest.raises(InputError, match=rf"^file.json: {key} is .*; only .* is supported$"):
        read(config | {key: value}, "file.json", **options)


def test_two_spacings_of_a_scheduler_are_refused_as_diffusers_refuses_them():
    config = SCHEDULER | {"use_beta_sigmas": True}
    with pytest.raises(ValueError, match="Only one of"):
        FlowMatchEulerDiscreteScheduler(**config)
    with pytest.raises(InputError, match=r"only one of use_karras_sigmas, .* can be true"):
        configs.schedule_from_diffusers(config, "")


ODD = [2.0, 2.5, "2", None, True, False, [], [2], {}, -1, 0, 10**9, 10**400, math.nan, math.inf]


@pytest.mark.parametrize("name", READERS)
def test_a_value_of_another_type_or_size_is_one_line_or_what_the_class_takes(name):
    """Numbers are refused as strings, null, lists or beyond all sizes; nothing else is raised."""
    read, config, options = READERS[name]
    read(config, "file.json", **options)
    for key in config:
        for value in ODD:
            try:
                read(config | {key: value}, "file.json", **options)
            except InputError as error:
                assert str(error).startswith("file.json") and len(str(error)) < 250
                assert "\n" not in str(error) and any(name in str(error) for name in config)
            else:
                known = [repr(one) for one in TAKEN.get(key, ())]
                assert repr(value) in known or (name, key) == ("vae", "sample_size"), (key, value)


TAKEN = {
    "scaling_factor": (2.0, 2.5),
    "shift": (2.0, 2.5),
    "shift_factor": (2.0, 2.5, -1, 0, None),
    "base_shift": (2.0, 2.5, -1, 0),
    "max_shift": (2.0, 2.5, -1, 0),
    "shift_terminal": (None, 0),
    "qk_norm": (None,),
    "out_channels": (None,),
    "use_dynamic_shifting": (True, False),
    "use_karras_sigmas": (True, False),
    "use_quant_conv": (False,),
    "use_post_quant_conv": (False,),
    "dual_attention_layers": ([],),
}


def test_keys_that_a_class_does_not_have_are_left_aside_and_said(caplog):
    caplog.set_level("INFO")
    config = TRANSFORMER | {"use_rope": True, "_name_or_path": "x"}
    known = configs.mmdit_config_from_diffusers(TRANSFORMER, "a.json")
    assert configs.mmdit_config_from_diffusers(config, "a.json") == known
    assert caplog.messages == ["a.json: ['use_rope'] are no keys of its class, left aside"]
