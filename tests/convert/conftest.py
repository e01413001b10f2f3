"""Torch oracles with random weights, and parameter trees of the same kind."""

import pytest
import torch

from flashjax.convert.pipeline import Pipeline
from flashjax.convert.tensors import in_memory
from flashjax.convert.text import abstract_clip, abstract_t5
from flashjax.convert.transformer import abstract_transformer
from flashjax.convert.vae import abstract_vae
from flashjax.data.tokenizers import build_tokenizers, load_tokenizers
from flashjax.models.clip import CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.text import TextConfig
from flashjax.models.vae import VAEConfig

WORDS = "a red seven blue three left of green one".split()
LENGTH = 12


@pytest.fixture
def randomise():
    """Gives every weight of a torch model a random value: none is left at zero or one."""

    def fill(model, *, std=0.1):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=std, generator=generator)
        return model.eval()

    return fill


@pytest.fixture
def tensors_of():
    """The `Tensors` of a torch model, or of a dict of arrays."""

    def wrap(source):
        if isinstance(source, torch.nn.Module):
            source = {name: value.numpy() for name, value in source.state_dict().items()}
        return in_memory(source)

    return wrap


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    """A folder with three small tokenizers."""
    folder = tmp_path_factory.mktemp("tokenizers")
    build_tokenizers(folder, WORDS, clip_length=LENGTH, t5_length=LENGTH)
    return folder


@pytest.fixture
def pipeline(tokenizers, random_params):
    """A whole model, tiny and random."""
    loaded = load_tokenizers(tokenizers)
    vocabulary = len(loaded.clip_l)
    clip_l = CLIPConfig(vocabulary, LENGTH, 16, 2, 2, 32, "quick_gelu")
    clip_g = CLIPConfig(vocabulary, LENGTH, 24, 2, 2, 32, "gelu", 24)
    t5 = T5Config(len(loaded.t5), 48, 2, 2, 8, 32)
    text_config = TextConfig(clip_l, clip_g, t5)
    transformer = MMDiTConfig(
        depth=3,
        heads=3,
        dual=1,
        position_size=8,
        text_width=48,
        pooled_width=text_config.pooled_width,
        head_width=8,
    )
    vae = VAEConfig(channels=(8, 8), layers=1, groups=4)
    return Pipeline(
        transformer=random_params(abstract_transformer(transformer)),
        transformer_config=transformer,
        vae=random_params(abstract_vae(vae)),
        vae_config=vae,
        text={
            "clip_l": random_params(abstract_clip(clip_l)),
            "clip_g": random_params(abstract_clip(clip_g)),
            "t5": random_params(abstract_t5(t5)),
        },
        text_config=text_config,
        sample_size=8,
    )
