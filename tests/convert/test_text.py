"""The text encoders' tables: the oracles are transformers' models."""

import json

import jax
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5EncoderModel
from transformers import T5Config as TorchT5Config

from flashjax import trees
from flashjax.convert.configs import (
    clip_config_from_transformers,
    clip_config_to_transformers,
    t5_config_from_transformers,
    t5_config_to_transformers,
)
from flashjax.convert.text import (
    abstract_clip,
    abstract_t5,
    clip_from,
    clip_is_projected,
    clip_to,
    t5_from,
    t5_to,
)
from flashjax.models.clip import CLIPConfig, CLIPText
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.types import InputError

CLIP_L = CLIPConfig(
    vocabulary=50, length=9, width=16, depth=3, heads=2, hidden=40, activation="quick_gelu"
)
CLIP_G = CLIPConfig(
    vocabulary=50,
    length=9,
    width=24,
    depth=2,
    heads=3,
    hidden=32,
    activation="gelu",
    projection=20,
)
T5 = T5Config(vocabulary=60, width=16, depth=3, heads=3, head_width=4, hidden=24)

# Begin, words, end of text; the end repeated as padding (L), "!" as padding (G), and no room left.
CLIP_IDS = np.array(
    [
        [48, 3, 7, 49, 49, 49, 49, 49, 49],
        [48, 3, 7, 9, 49, 0, 0, 0, 0],
        [48, 1, 2, 3, 4, 5, 6, 7, 49],
    ]
)


def torch_clip(config):
    torch.manual_seed(0)
    return CLIPTextModelWithProjection(CLIPTextConfig(**clip_config_to_transformers(config)))


def torch_t5():
    torch.manual_seed(0)
    return T5EncoderModel(TorchT5Config(**t5_config_to_transformers(T5)))


def assert_same_clip(model, config, params):
    with torch.no_grad():
        theirs = model(torch.from_numpy(CLIP_IDS), output_hidden_states=True)
    hidden, pooled = jax.jit(CLIPText(config).apply)({"params": params}, CLIP_IDS)
    np.testing.assert_allclose(hidden, theirs.hidden_states[-2], atol=1e-4, rtol=0)
    np.testing.assert_allclose(pooled, theirs.text_embeds, atol=1e-4, rtol=0)
    assert not np.allclose(pooled[0], pooled[1], atol=1e-2)


def assert_same_t5(model, params):
    ids = np.random.default_rng(0).integers(0, 60, size=(2, 150))  # beyond the last bucket's start
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids))[0]
    ours = jax.jit(T5Encoder(T5).apply)({"params": params}, ids)
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", [CLIP_L, CLIP_G], ids=["clip_l", "clip_g"])
def test_clip_weights_give_transformers_features(config, randomise, tensors_of):
    model = randomise(torch_clip(config), std=0.3)
    if not config.projection:
        torch.nn.init.eye_(model.text_projection.weight)
    tensors = tensors_of(model)
    read = clip_config_from_transformers(
        json.loads(model.config.to_json_string()), "memory", projected=clip_is_projected(tensors)
    )
    assert read == config
    assert_same_clip(model, config, clip_from(tensors, config))


@pytest.mark.parametrize("config", [CLIP_L, CLIP_G], ids=["clip_l", "clip_g"])
def test_exported_clip_loads_in_transformers(config, random_params, tensors_of):
    params = random_params(abstract_clip(config), std=0.3)
    tensors = clip_to(params, config)
    model = torch_clip(config).eval()
    model.load_state_dict({key: torch.tensor(array) for key, array in tensors.items()})
    assert_same_clip(model, config, params)
    back = clip_from(tensors, config)
    assert trees.digest(back) == trees.digest(params)


def test_t5_weights_give_transformers_features(randomise, tensors_of):
    model = randomise(torch_t5(), std=0.3)
    config = t5_config_from_transformers(json.loads(model.config.to_json_string()), "memory")
    assert config == T5
    assert_same_t5(model, t5_from(tensors_of(model), T5))


def test_exported_t5_loads_in_transformers(random_params, tensors_of):
    params = random_params(abstract_t5(T5), std=0.3)
    tensors = t5_to(params, T5)
    model = torch_t5().eval()
    model.load_state_dict({key: torch.tensor(array) for key, array in tensors.items()})
    assert_same_t5(model, params)
    assert trees.digest(t5_from(tensors, T5)) == trees.digest(params)


def test_a_projection_is_not_dropped(random_params, tensors_of):
    tensors = dict(clip_to(random_params(abstract_clip(CLIP_L)), CLIP_L))
    tensors["text_projection.weight"][0, 1] = 0.5
    assert clip_is_projected(tensors_of(tensors))
    with pytest.raises(InputError, match=r"text_projection.weight is no identity"):
        clip_from(tensors_of(tensors), CLIP_L)


def test_released_encoders_have_the_released_number_of_tensors():
    clip_l = CLIPConfig(49408, 77, 768, 12, 12, 3072, "quick_gelu")
    clip_g = CLIPConfig(49408, 77, 1280, 32, 20, 5120, "gelu", 1280)
    t5 = T5Config(32128, 4096, 24, 64, 64, 10240)
    assert trees.count(abstract_clip(clip_l)) == 123_650_304 - 768**2
    assert trees.count(abstract_clip(clip_g)) == 694_659_840
    assert trees.count(abstract_t5(t5)) == 4_762_310_656


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "relu"), ("layer_norm_eps", 1e-6), ("eos_token_id", 7)]
)
def test_a_clip_of_another_kind_is_refused(key, value):
    config = clip_config_to_transformers(CLIP_L) | {key: value}
    with pytest.raises(InputError, match=f"file.json: {key} is {value!r}"):
        clip_config_from_transformers(config, "file.json", projected=False)


def test_a_t5_without_gates_is_refused():
    config = t5_config_to_transformers(T5) | {"feed_forward_proj": "relu"}
    with pytest.raises(InputError, match="feed_forward_proj is 'relu'"):
        t5_config_from_transformers(config, "file.json")
