"""Networks under other tools' names: what diffusers, transformers and torch write is the oracle."""

import dataclasses
import logging

import ml_dtypes
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file
from transformers import CLIPConfig as TorchCLIPConfig
from transformers import CLIPModel, CLIPTextModel, T5ForConditionalGeneration
from transformers import CLIPTextConfig as TorchTextConfig
from transformers import T5Config as TorchT5Config

from flashjax.convert.configs import (
    clip_config_to_transformers,
    mmdit_config_to_diffusers,
    t5_config_to_transformers,
)
from flashjax.convert.folder import network as diffusers_network
from flashjax.convert.reading import open_safetensors
from flashjax.convert.sai import PREFIXES, parts_of, split_file, tensors_of
from flashjax.convert.tensors import in_memory, joined
from flashjax.convert.text import clip_from, clip_to, t5_from, t5_to
from flashjax.convert.transformer import transformer_to, translated
from flashjax.models.clip import CLIPConfig
from flashjax.models.t5 import T5Config
from flashjax.types import InputError

CLIP = CLIPConfig(50, 9, 16, 2, 2, 40, "quick_gelu", 12)
T5 = T5Config(60, 16, 2, 3, 4, 24)
TO_Q = "transformer_blocks.0.attn.to_q.weight"
FLOAT, SMALL = np.float32, np.zeros((2, 3), np.float32)


@pytest.fixture
def bare(pipeline):
    """The transformer under Stability AI's names, without prefix."""
    return dict(transformer_to(pipeline.transformer, pipeline.transformer_config, "sai"))


@pytest.fixture
def torch_transformer(pipeline, randomise):
    config = mmdit_config_to_diffusers(pipeline.transformer_config, sample_size=8)
    return randomise(SD3Transformer2DModel.from_config(config))


def assert_same(found, wanted):
    assert found.shapes == {name: array.shape for name, array in wanted.items()}
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def whole_file(pipeline):
    """All networks in one file, as Stability AI's has them."""
    parts = (
        tensors_of(name, *part).prefixed(PREFIXES[name]) for name, part in pipeline.parts.items()
    )
    return joined(*parts)


@pytest.mark.parametrize(
    "prefix",
    ["", "_orig_mod.", "module.", "model.", "student.", "net.", "diffusion_model.", "transformer.",
     "model.diffusion_model.", "model.diffusion_model._orig_mod.", "module._orig_mod.model."],
)  # fmt: skip
def test_any_prefix_of_a_trainer_is_seen_through(prefix, bare):
    found = split_file(in_memory({prefix + name: array for name, array in bare.items()}))
    assert_same(found["transformer"], bare)


def test_wrappers_inside_names_are_seen_through(bare):
    wrapped = {name.replace(".x_block.", "._orig_mod.x_block."): a for name, a in bare.items()}
    wrapped = {
        name.replace(".attn.", "._fsdp_wrapped_module.attn."): a for name, a in wrapped.items()
    }
    assert_same(split_file(in_memory(wrapped))["transformer"], bare)
    with pytest.raises(InputError, match=r"has pos_embed twice, wrapped and not: keep one"):
        split_file(in_memory(bare | {"_orig_mod.pos_embed": bare["pos_embed"]}))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_file_of_diffusers_names_is_the_model_that_torch_saved(
    compiled, torch_transformer, pipeline, tmp_path
):
    model = torch.compile(torch_transformer) if compiled else torch_transformer
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(name.startswith("_orig_mod.") for name in state) == compiled
    save_file(state, tmp_path / "model.safetensors")
    found = split_file(open_safetensors(tmp_path / "model.safetensors"))["transformer"]
    config = pipeline.transformer_config
    back = translated(found, config, given="sai", wanted="diffusers")
    assert_same(back, {n: v.numpy() for n, v in torch_transformer.state_dict().items()})


def test_a_whole_pipeline_under_diffusers_names_in_one_file_is_read(pipeline):
    folders = {"transformer": "transformer.", "vae": "vae.", "clip_l": "text_encoder."}
    folders |= {"clip_g": "text_encoder_2.", "t5": "text_encoder_3."}
    parts = [
        diffusers_network(name, *part)[2].prefixed(folders[name])
        for name, part in pipeline.parts.items()
    ]
    found, wanted = split_file(joined(*parts)), split_file(whole_file(pipeline))
    assert found.keys() == wanted.keys() == pipeline.parts.keys()
    for name in found:
        assert_same(found[name], dict(wanted[name]))


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [("te1.", "te2."), ("conditioner.embedders.1.transformer.", "conditioner.embedders.0.a.")],
)
def test_of_two_clips_under_any_prefix_the_narrower_is_l(narrow, wide, pipeline):
    """As released ones are: 768 and 1280 wide."""
    given = whole_file(pipeline)
    wanted = split_file(given)
    sizes = {name: pipeline.parts[name][1].width for name in ("clip_l", "clip_g")}
    prefix = {"clip_l": PREFIXES["clip_l"], "clip_g": PREFIXES["clip_g"]}
    new = dict(zip(sorted(sizes, key=sizes.get), (narrow, wide), strict=True))
    names = {
        name: next(
            (
                new[clip] + name.removeprefix(old)
                for clip, old in prefix.items()
                if name.startswith(old)
            ),
            name,
        )
        for name in given
    }
    found = split_file(given.renamed(names, where="memory"))
    assert found.keys() == wanted.keys()
    first, second = sorted(sizes, key=sizes.get)
    assert_same(found["clip_l"], dict(wanted[first]))
    assert_same(found["clip_g"], dict(wanted[second]))


EXTRAS = {
    "text_encoders.clip_l.logit_scale": np.array(4.6, FLOAT),
    "text_encoders.t5xxl.logit_scale": np.array(4.6, FLOAT),
    "text_encoders.clip_l.transformer.text_model.embeddings.position_ids": np.arange(4)[None],
    "text_encoders.clip_l.transformer.vision_model.encoder.layers.0.mlp.fc1.weight": SMALL,
    "text_encoders.clip_l.transformer.visual_projection.weight": SMALL,
    "text_encoders.t5xxl.transformer.decoder.block.0.layer.0.layer_norm.weight": SMALL,
    "text_encoders.t5xxl.transformer.lm_head.weight": SMALL,
    "model_ema.diffusion_modelpos_embed": SMALL,
    "model_ema.decay": np.array(0.9, FLOAT),
    "model_ema.num_updates": np.array(7, np.int32),
    "global_step": np.array(1000, np.int64),
    "loss.logvar": np.array(0, FLOAT),
    "first_stage_model.loss.discriminator.main.0.weight": SMALL,
    "model.diffusion_model.mask_token": SMALL,
    "model.diffusion_model.nothing": np.zeros(0, FLOAT),
    "model.diffusion_model.context_mask": np.ones(3, np.bool_),
    "optimizer.state.0.exp_avg": SMALL.astype(np.float64),
}


def test_extras_are_left_out_and_said_in_one_line(pipeline, caplog):
    plain = whole_file(pipeline)
    wanted = split_file(plain)
    with caplog.at_level(logging.INFO):
        found = split_file(joined(plain, in_memory(EXTRAS)))
    (line,) = caplog.messages
    assert (
        f"left out {len(EXTRAS)} tensors of no network: text_encoders.clip_l.logit_scale, " in line
    )
    assert line.endswith(f"and {len(EXTRAS) - 5} more") and len(line) < 500
    assert found.keys() == wanted.keys()
    for name in found:
        assert_same(found[name], dict(wanted[name]))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("first_stage_model.quant_conv.weight", "unexpected quant_conv.weight"),
        ("model.diffusion_model.register", "unexpected register"),
        (
            "model.diffusion_model.joint_blocks.0.x_block.gate",
            "unexpected joint_blocks.0.x_block.g",
        ),
        (
            "model.diffusion_model.final_layer.linear.weight_g",
            "unexpected final_layer.linear.weight_",
        ),
        (
            "model.diffusion_model.final_layer.linear.lora_A.weight",
            "a LoRA lies beside the weights",
        ),
        ("lora_unet_final_layer_linear.lora_up.weight", "a LoRA lies beside the weights"),
    ],
)
def test_what_could_change_a_weight_is_never_left_out(extra, message, pipeline):
    known = {name: config for name, (_, config) in pipeline.parts.items()}
    with pytest.raises(InputError, match=message):
        parts_of(joined(whole_file(pipeline), in_memory({extra: SMALL})), known=known)


def test_a_copy_is_set_aside_and_two_of_a_kind_are_refused(bare):
    def under(*prefixes):
        return in_memory(
            {p + name: array + i for i, p in enumerate(prefixes) for name, array in bare.items()}
        )

    assert_same(split_file(under("student.", "teacher."))["transformer"], bare)
    assert_same(split_file(under("net.", "net_ema."))["transformer"], bare)
    assert_same(split_file(under("ema."))["transformer"], bare)
    with pytest.raises(InputError, match=r"two of transformer, under 'a\.' and 'b\.': keep"):
        split_file(under("a.", "b."))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["double_blocks.0.img_attn.qkv.weight"], "is Flux: flashjax reads SD3"),
        ([TO_Q, "single_transformer_blocks.0.proj_out.weight"], "is Flux"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "is a UNet of SD 1, 2 or XL"),
        (["down_blocks.0.attentions.0.proj_in.weight"], "is a UNet of SD 1, 2 or XL"),
        ([TO_Q, "controlnet_blocks.0.weight"], "is a ControlNet"),
        (["adaln_single.linear.weight"], "is PixArt"),
        (["y_embedder.y_embedding", "blocks.0.attn.qkv.weight"], "is PixArt"),
        (["double_layers.0.attn.w1q.weight", "single_layers.0.attn.w1q.weight"], "is AuraFlow"),
        ([TO_Q, "transformer_blocks.0.img_mod.1.weight"], "is Qwen-Image"),
        (["mlp_t5.0.weight", "blocks.0.attn1.Wqkv.weight"], "is HunyuanDiT"),
        (["layers.0.attention.qkv.weight"], "is Lumina or Z-Image"),
        (["blocks.0.self_attn.q.weight"], "is Wan"),
        (
            [
                "model.diffusion_model.input_blocks.0.0.weight",
                "first_stage_model.encoder.down.0.block.0.conv1.weight",
            ],
            "is a UNet of SD 1, 2 or XL",
        ),
        ([], "memory holds no tensors: fetch it anew"),
        (["enc.blk.0.attn_q.weight"], "is a text model named by llama.cpp"),
        (["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight"], "is a LoRA, no model"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], "with --lora memory:1"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "is a CLIP alone: give a file"),
        ([f"a.b.{i}.c" for i in range(2000)], r"2000 tensors under 'a\.b\.', .*and 1995 more"),
    ],
)
def test_a_file_of_another_model_is_called_what_it_is(names, message):
    with pytest.raises(InputError, match=message) as caught:
        split_file(in_memory(dict.fromkeys(names, SMALL)))
    assert len(str(caught.value)) < 400


def test_an_autoencoder_alone_is_told_from_a_model(pipeline):
    vae = tensors_of("vae", *pipeline.parts["vae"])
    with pytest.raises(InputError, match="memory holds vae and no transformer"):
        parts_of(in_memory(dict(vae)))


def test_a_whole_clip_gives_its_text_tower(randomise, tensors_of, caplog):
    text = clip_config_to_transformers(CLIP)
    sizes = dict(hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    sizes |= dict(image_size=8, patch_size=4, projection_dim=12)
    model = randomise(
        CLIPModel(TorchCLIPConfig(text_config=text, vision_config=sizes, projection_dim=12))
    )
    with caplog.at_level(logging.INFO):
        found = clip_from(tensors_of(model), CLIP)
    assert "left out" in caplog.text and "logit_scale" in caplog.text
    wanted = model.state_dict()
    for name, array in clip_to(found, CLIP).items():
        np.testing.assert_array_equal(array, wanted[name].numpy())


def test_a_clip_without_its_upper_level_is_read(randomise, tensors_of):
    model = randomise(CLIPTextModel(TorchTextConfig(**clip_config_to_transformers(CLIP))))
    assert "encoder.layers.0.layer_norm1.weight" in model.state_dict()
    config = dataclasses.replace(CLIP, projection=0)
    found = clip_to(clip_from(tensors_of(model), config), config)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(found[f"text_model.{name}"], value.numpy())


def test_a_whole_t5_gives_its_encoder_under_any_of_its_tied_names(randomise, tensors_of):
    config = TorchT5Config(**t5_config_to_transformers(T5) | {"num_decoder_layers": 1})
    model = randomise(T5ForConditionalGeneration(config))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    table, twin = "shared.weight", "encoder.embed_tokens.weight"
    assert np.array_equal(state[table], state[twin]) and "lm_head.weight" in state
    for names in (state, state.keys() - {twin}, state.keys() - {table}):
        found = t5_to(t5_from(tensors_of({name: state[name] for name in names}), T5), T5)
        for name, array in found.items():
            np.testing.assert_array_equal(array, state[name])
    with pytest.raises(InputError, match=r"embed_tokens.weight differ, and are one"):
        t5_from(tensors_of(state | {twin: state[twin] + 1}), T5)


def test_a_table_of_positions_without_its_leading_one_has_it_again(bare):
    found = split_file(in_memory(bare | {"pos_embed": bare["pos_embed"][0]}))["transformer"]
    assert_same(found, bare)


def test_codes_without_scales_are_no_weights(bare):
    name = "joint_blocks.0.x_block.mlp.fc1.weight"
    for dtype in (np.int8, np.uint8, np.uint32, np.int64, np.bool_):
        with pytest.raises(InputError, match=rf"fc1.weight is {np.dtype(dtype)}: codes"):
            parts_of(in_memory(bare | {name: bare[name].astype(dtype)}))
    plain = bare | {name: bare[name].astype(ml_dtypes.float8_e4m3fn)}  # a cast, not codes
    assert split_file(in_memory(plain))["transformer"].infos[name].dtype == ml_dtypes.float8_e4m3fn
