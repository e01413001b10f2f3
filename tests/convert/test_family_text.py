"""Without T5, conditioning is that of diffusers' pipeline without its third encoder."""

import dataclasses

import jax
import numpy as np
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from flashjax.convert.configs import clip_config_to_transformers
from flashjax.convert.text import clip_from
from flashjax.data.tokenizers import build_tokenizers, load_tokenizers
from flashjax.models.clip import CLIPConfig
from flashjax.models.text import AbsentT5, TextConfig, encode_text

PROMPTS = ["a red seven", "a blue three left of a green one"]
LENGTH, WIDTH = 12, 48


def torch_clip(config):
    return CLIPTextModelWithProjection(CLIPTextConfig(**clip_config_to_transformers(config)))


def test_without_t5_diffusers_conditions_as_we_do(tmp_path, randomise, tensors_of):
    build_tokenizers(tmp_path, sorted(set(" ".join(PROMPTS).split())), clip_length=LENGTH)
    tokenizer = load_tokenizers(tmp_path)
    vocabulary = len(tokenizer.clip_l)
    config = TextConfig(
        CLIPConfig(vocabulary, LENGTH, 16, 2, 2, 32, "quick_gelu"),
        CLIPConfig(vocabulary, LENGTH, 24, 2, 2, 32, "gelu", 24),
        AbsentT5(WIDTH, 256),
    )
    models = {name: randomise(torch_clip(getattr(config, name))) for name in ("clip_l", "clip_g")}
    torch.nn.init.eye_(models["clip_l"].text_projection.weight)
    pipeline = StableDiffusion3Pipeline(
        SD3Transformer2DModel(
            num_layers=1,
            num_attention_heads=1,
            attention_head_dim=8,
            caption_projection_dim=8,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=40,
            pos_embed_max_size=2,
        ),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        None,
        models["clip_l"],
        CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"),
        models["clip_g"],
        CLIPTokenizer.from_pretrained(tmp_path / "tokenizer_2"),
        None,
        None,
    )
    text, _, pooled, _ = pipeline.encode_prompt(
        PROMPTS, None, None, do_classifier_free_guidance=False
    )
    params = {
        name: clip_from(tensors_of(model), getattr(config, name)) for name, model in models.items()
    }
    tokens = dataclasses.replace(tokenizer(PROMPTS), t5=np.zeros((2, 0), np.int32))
    cond = jax.jit(lambda p: encode_text(config, p, tokens))(params)
    assert cond.text.shape == (2, LENGTH + 256, WIDTH)
    np.testing.assert_allclose(cond.text, text.numpy(force=True), atol=1e-4, rtol=0)
    np.testing.assert_allclose(cond.pooled, pooled.numpy(force=True), atol=1e-4, rtol=0)
