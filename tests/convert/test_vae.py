"""The autoencoder's table: oracles are diffusers' model and its converter of SAI files."""

import json

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from flashjax import trees
from flashjax.convert.configs import vae_config_from_diffusers, vae_config_to_diffusers
from flashjax.convert.vae import (
    abstract_vae,
    vae_from,
    vae_rows,
    vae_to,
)
from flashjax.models.vae import VAE, VAEConfig
from flashjax.types import InputError

TINY = VAEConfig(channels=(8, 16, 16), layers=2, groups=4, latent_channels=4)


@pytest.fixture
def torch_vae(randomise):
    return randomise(AutoencoderKL.from_config(vae_config_to_diffusers(TINY)))


def assert_same(model, params):
    random = np.random.default_rng(0)
    image = random.normal(size=(2, 12, 20, 3)).astype(np.float32)
    latents = random.normal(size=(2, 3, 5, 4)).astype(np.float32)
    with torch.no_grad():
        encoded = model.encode(torch.from_numpy(image).permute(0, 3, 1, 2)).latent_dist
        decoded = model.decode(torch.from_numpy(latents).permute(0, 3, 1, 2)).sample
    moments = jax.jit(lambda p, x: VAE(TINY).apply({"params": p}, x, method="moments"))
    decode = jax.jit(lambda p, x: VAE(TINY).apply({"params": p}, x, method="decode_raw"))
    mean, log_variance = moments(params, image)
    pairs = [
        (mean, encoded.mean),
        (log_variance, encoded.logvar),
        (decode(params, latents), decoded),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-4, rtol=0)


def test_diffusers_weights_give_diffusers_images(torch_vae, tensors_of):
    config = vae_config_from_diffusers(json.loads(torch_vae.to_json_string()), "memory")
    assert config == TINY
    assert_same(torch_vae, vae_from(tensors_of(torch_vae), TINY, "diffusers"))


def test_export_loads_in_diffusers_and_gives_the_same_images(random_params):
    params = random_params(abstract_vae(TINY))
    model = AutoencoderKL.from_config(vae_config_to_diffusers(TINY)).eval()
    tensors = vae_to(params, TINY, "diffusers")
    model.load_state_dict({key: torch.tensor(array) for key, array in tensors.items()})
    assert_same(model, params)


def test_sai_names_are_those_that_diffusers_converts(torch_vae, tensors_of):
    params = vae_from(tensors_of(torch_vae), TINY, "diffusers")
    sai = vae_to(params, TINY, "sai").prefixed("first_stage_model.")
    converted = convert_ldm_vae_checkpoint(
        {key: torch.tensor(array) for key, array in sai.items()}, vae_config_to_diffusers(TINY)
    )
    theirs = torch_vae.state_dict()
    assert converted.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(converted[key], value), key


def test_round_trips_keep_every_bit(random_params, tensors_of):
    params = random_params(abstract_vae(TINY))
    for back in (
        vae_from(vae_to(params, TINY, "sai"), TINY, "sai"),
        vae_from(vae_to(params, TINY, "diffusers"), TINY, "diffusers"),
    ):
        assert trees.digest(back) == trees.digest(params)


def test_the_released_size_has_the_released_tensors():
    assert trees.count(abstract_vae(VAEConfig())) == 83_819_683
    assert len(vae_rows(VAEConfig(), "sai")) == 244
    with torch.device("meta"):
        theirs = AutoencoderKL.from_config(vae_config_to_diffusers(VAEConfig())).state_dict()
    rows = vae_rows(VAEConfig(), "diffusers")
    assert {key: tuple(value.shape) for key, value in theirs.items()} == {
        row.keys[0]: row.shape for row in rows
    }


@pytest.mark.parametrize("key", ["use_quant_conv", "use_post_quant_conv"])
def test_quant_convolutions_are_refused(key):
    config = vae_config_to_diffusers(TINY) | {key: True}
    with pytest.raises(InputError, match=f"file.json: {key} is True"):
        vae_config_from_diffusers(config, "file.json")
