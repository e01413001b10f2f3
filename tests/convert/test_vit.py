"""The towers that judge pictures: the oracles are transformers' models, read from their folders."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import CLIPConfig as TorchCLIPConfig
from transformers import CLIPModel, Dinov2Config, Dinov2Model

from flashjax import trees
from flashjax.convert.reading import open_safetensors
from flashjax.convert.tensors import in_memory
from flashjax.convert.vit import (
    CLIP,
    DINOV2,
    abstract_vit,
    read_clip_model,
    read_dinov2,
    vit_from,
    vit_to,
)
from flashjax.convert.vit_configs import (
    clip_model_config_from_transformers,
    dinov2_config_from_transformers,
)
from flashjax.models.clip import CLIPText
from flashjax.models.vit import ViT, ViTConfig
from flashjax.types import InputError

SIDE, PATCH = 28, 7
# Width, heads, depth, activation; the head layouts of ViT-L/14 and ViT-H/14: 16 of 64 and of 80.
CLIPS = {
    "tiny": (24, 3, 2, "quick_gelu"),
    "large": (1024, 16, 1, "quick_gelu"),
    "huge": (1280, 16, 1, "gelu"),
}
VOCABULARY, LENGTH = 50, 9
IDS = np.array([[48, 3, 7, 49, 49, 49, 49, 49, 49], [48, 1, 2, 3, 4, 5, 6, 7, 49]])


def pictures(*, side=SIDE, count=3):
    return np.random.default_rng(0).normal(size=(count, side, side, 3)).astype(np.float32)


def features(config, params, images):
    return np.asarray(jax.jit(ViT(config).apply)({"params": params}, images))


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=0)
    assert ours.std() > 0.05 and not np.allclose(ours[0], ours[1], atol=1e-2)


@pytest.fixture
def lively(randomise):
    """Random weights of an initialiser's sizes, norms and scales round one: signals keep theirs."""

    def fill(model, width):
        randomise(model, std=width**-0.5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ("norm" in name and name.endswith("weight")) or "lambda1" in name:
                    parameter.add_(1)
                if "embeddings." in name and "patch" not in name:
                    parameter.mul_(width**0.5)
        return model

    return fill


@pytest.fixture
def clip_folder(tmp_path, lively):
    """Saves a CLIPModel with random weights, and gives it with its folder."""

    def make(width, heads, depth, activation):
        torch.manual_seed(0)
        tower = {"intermediate_size": 40, "num_hidden_layers": depth, "hidden_act": activation}
        ends = {"bos_token_id": 0, "eos_token_id": VOCABULARY - 1}
        config = TorchCLIPConfig(
            vision_config=tower
            | {"hidden_size": width, "num_attention_heads": heads}
            | {"image_size": SIDE, "patch_size": PATCH},
            text_config=tower
            | ends
            | {"hidden_size": 16, "num_attention_heads": 2}
            | {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH},
            projection_dim=20,
        )
        model = lively(CLIPModel(config), width)
        with torch.no_grad():
            model.logit_scale.fill_(4.25)
        model.save_pretrained(tmp_path)
        return model, tmp_path

    return make


@pytest.mark.parametrize("size", CLIPS)
def test_a_clip_folder_gives_transformers_pictures_texts_and_scale(clip_folder, size):
    model, folder = clip_folder(*CLIPS[size])
    towers = read_clip_model(folder)
    images = pictures()
    with torch.no_grad():
        seen = model.get_image_features(torch.from_numpy(images).permute(0, 3, 1, 2))
        read = model.get_text_features(torch.from_numpy(IDS))
    assert_same(features(towers.vision_config, towers.vision, images), seen.pooler_output)
    _, pooled = CLIPText(towers.text_config).apply({"params": towers.text}, IDS)
    assert_same(np.asarray(pooled), read.pooler_output)
    assert towers.scale == pytest.approx(np.exp(4.25), rel=1e-6)


@pytest.fixture
def dinov2_folder(tmp_path, lively):
    """Saves a Dinov2Model with random weights, and gives it with its folder."""

    def make(width=24, heads=3, **changed):
        torch.manual_seed(0)
        sizes = {"num_hidden_layers": 2, "image_size": SIDE, "patch_size": PATCH, "mlp_ratio": 2}
        config = Dinov2Config(hidden_size=width, num_attention_heads=heads, **sizes | changed)
        model = lively(Dinov2Model(config), width)
        model.save_pretrained(tmp_path)
        return model, tmp_path

    return make


@pytest.mark.parametrize(
    ("width", "heads", "side"), [(24, 3, SIDE), (24, 3, 14), (24, 3, 49), (1024, 16, 14)]
)
def test_a_dinov2_folder_gives_transformers_features_at_any_size(dinov2_folder, width, heads, side):
    model, folder = dinov2_folder(width, heads)
    params, config = read_dinov2(folder)
    images = pictures(side=side)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images).permute(0, 3, 1, 2)).pooler_output
    assert_same(features(config, params, images), theirs)


def test_positions_of_oblong_pictures_are_transformers(dinov2_folder):
    model, folder = dinov2_folder()
    params, config = read_dinov2(folder)
    images = pictures(side=42)[:, :, :21]
    with torch.no_grad():
        theirs = model(torch.from_numpy(images.copy()).permute(0, 3, 1, 2)).pooler_output
    assert_same(features(config, params, images), theirs)


VISION = ViTConfig(28, 7, 24, 2, 3, 40, "gelu", 1e-5, norm_first=True, projection=20)
DINO = ViTConfig(28, 7, 24, 2, 3, 48, "gelu", 1e-6, patch_bias=True, layer_scale=True)


@pytest.mark.parametrize(("config", "table"), [(VISION, CLIP), (DINO, DINOV2)])
def test_every_leaf_goes_to_a_file_and_back(random_params, config, table):
    params = random_params(abstract_vit(config))
    tensors = dict(vit_to(params, config, table))
    assert trees.digest(vit_from(in_memory(tensors), config, table)) == trees.digest(params)


def test_released_towers_have_the_released_number_of_parameters():
    large = ViTConfig(224, 14, 1024, 24, 16, 4096, "quick_gelu", 1e-5, norm_first=True)
    assert trees.count(abstract_vit(large)) == 303_179_776  # transformers' CLIPVisionModel
    dinov2 = ViTConfig(518, 14, 1024, 24, 16, 4096, "gelu", 1e-6, patch_bias=True, layer_scale=True)
    assert trees.count(abstract_vit(dinov2)) == 304_368_640 - 1024  # without its mask token


def test_keys_that_a_file_leaves_out_have_transformers_defaults():
    theirs = TorchCLIPConfig()
    vision, text = clip_model_config_from_transformers({"model_type": "clip"}, "config.json")
    told = json.loads(theirs.to_json_string(use_diff=False))
    assert clip_model_config_from_transformers(told, "config.json") == (vision, text)
    assert (vision.width, vision.patch, text.width, vision.projection) == (768, 32, 512, 512)
    told = json.loads(Dinov2Config().to_json_string(use_diff=False))
    short = dinov2_config_from_transformers({"model_type": "dinov2"}, "config.json")
    assert dinov2_config_from_transformers(told, "config.json") == short


def test_the_second_spelling_of_old_files_counts():
    tower = {"hidden_size": 64, "num_attention_heads": 4}
    config = {"model_type": "clip", "vision_config": None, "vision_config_dict": tower}
    config |= {"text_config": {"hidden_size": 8}, "text_config_dict": tower}
    theirs = TorchCLIPConfig.from_dict(json.loads(json.dumps(config)))
    vision, text = clip_model_config_from_transformers(config, "config.json")
    assert vision.width == theirs.vision_config.hidden_size == 64
    assert text.width == theirs.text_config.hidden_size == 64


@pytest.mark.parametrize(
    ("read", "changed", "message"),
    [
        (read_clip_model, {"model_type": "siglip"}, "model_type is 'siglip'; only 'clip'"),
        (read_clip_model, {"model_type": "dinov2"}, "model_type is 'dinov2'; only 'clip'"),
        (read_dinov2, {"model_type": "clip"}, "model_type is 'clip'; only 'dinov2'"),
        (read_dinov2, {"model_type": "dinov2_with_registers"}, "'dinov2_with_registers'"),
        (read_dinov2, {"model_type": "dinov2", "use_swiglu_ffn": True}, "use_swiglu_ffn is True"),
        (read_dinov2, {"model_type": "dinov2", "image_size": [28, 28]}, "image_size is .28, 28.;"),
        (read_dinov2, {"model_type": "dinov2", "hidden_size": 50}, "width 50 with 12 heads"),
    ],
)
def test_another_model_is_refused_by_name(tmp_path, read, changed, message):
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_one_tower_is_no_clip(clip_folder):
    _, folder = clip_folder(*CLIPS["tiny"])
    tower = dict(open_safetensors(folder / "model.safetensors").under("vision_model."))
    save_file(tower, folder / "model.safetensors")
    with pytest.raises(InputError, match="lacks logit_scale: give a whole CLIPModel"):
        read_clip_model(folder)


def test_weights_of_other_sizes_are_refused(dinov2_folder):
    _, folder = dinov2_folder()
    where = folder / "config.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"missing encoder.layer.2"):
        read_dinov2(folder)


def test_a_table_for_other_sizes_is_no_table_at_all():
    with pytest.raises(InputError, match="neither may leave a rest"):
        dataclasses.replace(DINO, side=30)
