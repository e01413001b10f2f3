"""Stability AI's single file: oracles are diffusers' loader and the safetensors library."""

import jax
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors import safe_open

from flashjax import trees
from flashjax.convert.folder import write_pipeline
from flashjax.convert.sai import read_sai, read_sai_vae, write_sai
from flashjax.convert.tensors import write_safetensors
from flashjax.convert.transformer import transformer_to_diffusers, transformer_to_sai
from flashjax.models.vae import VAEConfig
from flashjax.types import InputError


@pytest.fixture
def path(pipeline, tmp_path):
    write_sai(tmp_path / "model.safetensors", pipeline, title="tiny", dtype=np.float32)
    return tmp_path / "model.safetensors"


def test_diffusers_loads_the_single_file(path, pipeline, tokenizers, tmp_path):
    write_pipeline(tmp_path / "folder", pipeline, tokenizers_from=tokenizers)
    model = SD3Transformer2DModel.from_single_file(
        str(path), config=str(tmp_path / "folder"), subfolder="transformer", local_files_only=True
    )
    want = transformer_to_diffusers(pipeline.transformer, pipeline.transformer_config)
    found = model.state_dict()
    assert found.keys() == want.keys()
    for key, array in want.items():
        assert torch.equal(found[key], torch.tensor(array)), key


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_file_is_read_as_it_was_written(dtype, pipeline, tmp_path):
    path = tmp_path / "model.safetensors"
    write_sai(path, pipeline, title="tiny", dtype=dtype)
    params, config = read_sai(path)
    vae = read_sai_vae(path, pipeline.vae_config)
    assert config == pipeline.transformer_config
    for read, written in ((params, pipeline.transformer), (vae, pipeline.vae)):
        stored = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), written)
        assert trees.digest(read) == trees.digest(stored)


def test_names_without_prefix_are_read(pipeline, tmp_path):
    path = tmp_path / "bare.safetensors"
    config = pipeline.transformer_config
    write_safetensors(path, transformer_to_sai(pipeline.transformer, config), dtype=np.float32)
    params, read_config = read_sai(path)
    assert read_config == config
    assert trees.digest(params) == trees.digest(pipeline.transformer)


def test_the_header_says_what_model_it_is(path):
    with safe_open(path, "np") as file:
        metadata, keys = file.metadata(), list(file.keys())
    assert metadata["format"] == "pt"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v3.5-medium"
    assert metadata["modelspec.resolution"] == "16x16"
    assert "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight" in keys
    assert "first_stage_model.decoder.up.0.block.0.norm1.weight" in keys


def test_the_autoencoder_may_be_left_out(pipeline, tmp_path):
    path = tmp_path / "model.safetensors"
    write_sai(path, pipeline, title="tiny", with_vae=False)
    assert read_sai(path)[1] == pipeline.transformer_config
    with pytest.raises(InputError, match=r"missing decoder.conv_in"):
        read_sai_vae(path, VAEConfig())


def test_a_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"conv_in.weight": np.zeros((2, 2))})
    with pytest.raises(InputError, match=r"model.safetensors lacks x_embedder.proj.weight"):
        read_sai(path)
