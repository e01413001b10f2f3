"""The transformer's table: oracles are diffusers' model and its converter of SAI files."""

import json

import jax
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

from flashjax import trees
from flashjax.convert import transformer
from flashjax.convert.configs import (
    mmdit_config_from_diffusers,
    mmdit_config_to_diffusers,
)
from flashjax.convert.sizes import mmdit_sizes
from flashjax.convert.tensors import Info, Tensors
from flashjax.convert.transformer import (
    abstract_transformer,
    transformer_from,
    transformer_rows,
    transformer_to,
)
from flashjax.models import variants
from flashjax.models.mmdit import MMDiT
from flashjax.types import Cond, InputError

TINY = {
    "num_layers": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "caption_projection_dim": 16,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 9,
    "sample_size": 16,
}
VARIANTS = {
    "sd35_medium": {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
    "sd35_large": {"dual_attention_layers": (), "qk_norm": "rms_norm"},
    "sd3": {"dual_attention_layers": (), "qk_norm": None},
}
MEDIUM = variants.MMDIT["sd35_medium"]


def torch_model(variant="sd35_medium"):
    torch.manual_seed(0)
    return SD3Transformer2DModel(**TINY, **VARIANTS[variant])


def config_of(model):
    return mmdit_config_from_diffusers(json.loads(model.to_json_string()), "memory")


@pytest.fixture
def medium(randomise):
    model = randomise(torch_model())
    return model, config_of(model)


def velocities(model, config, params, *, height, width):
    """The torch model's and ours on the same random input, "b h w c"."""
    random = np.random.default_rng(1)
    x = random.normal(size=(2, height, width, 16)).astype(np.float32)
    sigma = np.array([0.03, 0.9], np.float32)
    text = random.normal(size=(2, 5, config.text_width)).astype(np.float32)
    pooled = random.normal(size=(2, config.pooled_width)).astype(np.float32)
    with torch.no_grad():
        theirs = model(
            hidden_states=torch.from_numpy(x).permute(0, 3, 1, 2),
            timestep=torch.from_numpy(1000 * sigma),
            encoder_hidden_states=torch.from_numpy(text),
            pooled_projections=torch.from_numpy(pooled),
        ).sample
    ours, _ = jax.jit(MMDiT(config).apply)({"params": params}, x, sigma, Cond(text, pooled))
    return theirs.permute(0, 2, 3, 1).numpy(), np.asarray(ours)


@pytest.mark.parametrize(
    ("variant", "size"), [("sd35_medium", (6, 10)), ("sd35_large", (18, 2)), ("sd3", (8, 8))]
)
def test_diffusers_weights_give_diffusers_velocity(variant, size, randomise, tensors_of):
    model = randomise(torch_model(variant))
    params = transformer_from(tensors_of(model), config_of(model), "diffusers")
    height, width = size
    theirs, ours = velocities(model, config_of(model), params, height=height, width=width)
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_export_loads_in_diffusers_and_gives_the_same_velocity(random_params):
    config = config_of(torch_model())
    params = random_params(abstract_transformer(config))
    model = SD3Transformer2DModel.from_config(mmdit_config_to_diffusers(config, sample_size=16))
    tensors = transformer_to(params, config, "diffusers")
    model.load_state_dict({key: torch.tensor(array) for key, array in tensors.items()})
    theirs, ours = velocities(model.eval(), config, params, height=6, width=4)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("omitted", transformer.SWAPPED["diffusers"])
def test_an_omitted_half_swap_shows(omitted, randomise, tensors_of, monkeypatch):
    model = randomise(torch_model(), std=0.3)
    config = config_of(model)
    kept = tuple(name for name in transformer.SWAPPED["diffusers"] if name != omitted)
    monkeypatch.setitem(transformer.SWAPPED, "diffusers", kept)
    params = transformer_from(tensors_of(model), config, "diffusers")
    theirs, ours = velocities(model, config, params, height=6, width=4)
    assert np.abs(ours - theirs).max() > 1e-2 * np.abs(theirs).max()


def test_sai_names_are_those_that_diffusers_converts(medium, tensors_of):
    model, config = medium
    params = transformer_from(tensors_of(model), config, "diffusers")
    sai = transformer_to(params, config, "sai").prefixed("model.diffusion_model.")
    converted = convert_sd3_transformer_checkpoint_to_diffusers(
        {key: torch.tensor(array) for key, array in sai.items()}
    )
    theirs = model.state_dict()
    assert converted.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(converted[key], value), key


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trips_keep_every_bit(variant, random_params, tensors_of):
    config = config_of(torch_model(variant))
    params = random_params(abstract_transformer(config))
    sai = transformer_to(params, config, "sai")
    diffusers = transformer_to(params, config, "diffusers")
    for back in (
        transformer_from(tensors_of(sai), config, "sai"),
        transformer_from(tensors_of(diffusers), config, "diffusers"),
    ):
        assert trees.digest(back) == trees.digest(params)


def test_sd35_medium_has_the_released_keys_and_shapes():
    sai = {key: row.shape for row in transformer_rows(MEDIUM, "sai") for key in row.keys}
    assert len(sai) == 665
    assert sum(int(np.prod(shape)) for shape in sai.values()) == 2_469_663_936
    assert sai["pos_embed"] == (1, 147456, 1536)
    assert sai["x_embedder.proj.weight"] == (1536, 16, 2, 2)
    assert sai["joint_blocks.12.x_block.adaLN_modulation.1.weight"] == (13824, 1536)
    assert sai["joint_blocks.13.x_block.adaLN_modulation.1.weight"] == (9216, 1536)
    assert sai["joint_blocks.22.context_block.mlp.fc2.weight"] == (1536, 6144)
    assert sai["joint_blocks.23.context_block.adaLN_modulation.1.bias"] == (3072,)
    assert sai["joint_blocks.12.x_block.attn2.qkv.weight"] == (4608, 1536)
    assert sai["final_layer.linear.weight"] == (64, 1536)

    with torch.device("meta"):
        theirs = SD3Transformer2DModel.from_config(
            mmdit_config_to_diffusers(MEDIUM, sample_size=128)
        )
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert len(shapes) == 909
    assert shapes == {
        key: row.shape for row in transformer_rows(MEDIUM, "diffusers") for key in row.keys
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_configs_survive_both_formats(variant):
    config = config_of(torch_model(variant))
    written = mmdit_config_to_diffusers(config, sample_size=16)
    assert mmdit_config_from_diffusers(written, "memory") == config
    if config.qk_norm:  # else the file does not say how wide a head is
        assert mmdit_sizes(sai_header(config)) == config


def sai_header(config):
    """The tensors of a file, without their numbers."""
    rows = transformer_rows(config, "sai")
    float16 = np.dtype(np.float16)
    infos = {key: Info(row.shape, float16) for row in rows for key in row.keys}
    return Tensors("memory", infos, lambda name, start, stop: np.zeros(stop - start, float16))


@pytest.mark.parametrize("name", ["sd3_medium", "sd35_medium", "sd35_large"])
def test_the_sizes_of_a_released_model_are_read_off_its_tensors(name):
    assert mmdit_sizes(sai_header(variants.MMDIT[name])) == variants.MMDIT[name]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dual_attention_layers", [1, 2]),
        ("dual_attention_layers", [0, 1, 2, 3]),
        ("qk_norm", "layer_norm"),
        ("caption_projection_dim", 32),
    ],
)
def test_a_config_of_another_model_is_refused(key, value):
    written = mmdit_config_to_diffusers(config_of(torch_model()), sample_size=16)
    with pytest.raises(InputError, match=f"^file.json: {key} is "):
        mmdit_config_from_diffusers(written | {key: value}, "file.json")


def test_every_misfit_is_named_in_one_error(medium, tensors_of):
    model, config = medium
    arrays = {key: value.numpy() for key, value in model.state_dict().items()}
    arrays["proj_out.bias"] = arrays["proj_out.bias"][:-1]
    arrays["transformer_blocks.0.more"] = arrays.pop("context_embedder.bias")
    with pytest.raises(InputError) as error:
        transformer_from(tensors_of(arrays), config, "diffusers")
    message = str(error.value)
    assert message.startswith("memory ")
    assert "missing context_embedder.bias (16,)" in message
    assert "unexpected transformer_blocks.0.more" in message
    assert "proj_out.bias has shape (63,), not (64,)" in message
    assert "\n" not in message


def test_every_tensor_that_is_not_finite_is_named(medium, tensors_of):
    model, config = medium
    arrays = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    broken = ("proj_out.bias", "transformer_blocks.2.attn.to_k.weight")
    for key, value in zip(broken, (np.nan, np.inf), strict=True):
        arrays[key].flat[3] = value
    with pytest.raises(InputError, match="memory is not finite in") as error:
        transformer_from(tensors_of(arrays), config, "diffusers")
    assert all(key in str(error.value) for key in broken)


def test_a_tree_of_another_config_is_not_exported(random_params):
    config = config_of(torch_model())
    params = random_params(abstract_transformer(config))
    del params["final"]["bias"]
    with pytest.raises(InputError, match="missing final/bias"):
        transformer_to(params, config, "sai")
