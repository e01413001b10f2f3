"""Stability AI's single file: oracles are diffusers' loader and the safetensors library."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from flashjax import trees
from flashjax.convert.folder import write_pipeline
from flashjax.convert.pipeline import NETWORKS, assemble
from flashjax.convert.reading import open_safetensors
from flashjax.convert.sai import model_spec, read_parts, write_sai
from flashjax.convert.table import FLOAT32, Placement
from flashjax.convert.tensors import in_memory
from flashjax.convert.text import abstract_clip, abstract_t5
from flashjax.convert.transformer import abstract_transformer, transformer_to
from flashjax.convert.writing import write_safetensors
from flashjax.models.clip import CLIPConfig
from flashjax.models.t5 import T5Config
from flashjax.models.text import AbsentT5, TextConfig
from flashjax.types import InputError


def write(path, pipeline, *, networks=("transformer", "vae"), dtype=None):
    metadata = model_spec(pipeline.transformer_config, title="tiny", side=16)
    parts = {name: part for name, part in pipeline.parts.items() if name in networks}
    write_sai(path, parts, metadata=metadata, dtype=dtype)


@pytest.fixture
def path(pipeline, tmp_path):
    write(tmp_path / "model.safetensors", pipeline)
    return tmp_path / "model.safetensors"


def test_diffusers_loads_the_single_file(path, pipeline, tokenizers, tmp_path):
    write_pipeline(tmp_path / "folder", pipeline, tokenizers_from=tokenizers)
    model = SD3Transformer2DModel.from_single_file(
        str(path), config=str(tmp_path / "folder"), subfolder="transformer", local_files_only=True
    )
    want = transformer_to(pipeline.transformer, pipeline.transformer_config, "diffusers")
    found = model.state_dict()
    assert found.keys() == want.keys()
    for key, array in want.items():
        assert torch.equal(found[key], torch.tensor(array)), key


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_file_is_read_as_it_was_written(dtype, pipeline, tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, pipeline, dtype=dtype)
    parts = read_parts(path, known={"vae": pipeline.vae_config}, place=lambda _: FLOAT32)
    params, config = parts["transformer"]
    assert config == pipeline.transformer_config
    for read, written in ((params, pipeline.transformer), (parts["vae"][0], pipeline.vae)):
        stored = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), written)
        assert trees.digest(read) == trees.digest(stored)


def test_names_without_prefix_are_read(pipeline, tmp_path):
    path = tmp_path / "bare.safetensors"
    config = pipeline.transformer_config
    write_safetensors(path, transformer_to(pipeline.transformer, config, "sai"))
    params, read_config = read_parts(path, names=("transformer",))["transformer"]
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
    write(path, pipeline, networks=("transformer",))
    parts = read_parts(path)
    assert parts.keys() == {"transformer"}
    with pytest.raises(InputError, match=r"lacks vae, clip_l, clip_g: give --base"):
        assemble(parts, where=str(path))


@pytest.mark.parametrize("with_t5", [True, False])
def test_text_encoders_in_the_file_are_read_with_sizes_from_their_tensors(
    with_t5, random_params, pipeline, tmp_path
):
    clip_l = CLIPConfig(50, 9, 64, 2, 1, 32, "quick_gelu")
    clip_g = CLIPConfig(50, 9, 128, 3, 2, 32, "gelu", 128)
    t5 = T5Config(60, 192, 2, 3, 8, 24)
    abstract = {"clip_l": abstract_clip(clip_l), "clip_g": abstract_clip(clip_g)}
    abstract |= {"t5": abstract_t5(t5)} if with_t5 else {}
    absent = AbsentT5(192, 77)
    sizes = dataclasses.replace(pipeline.transformer_config, text_width=192, pooled_width=192)
    model = dataclasses.replace(
        pipeline,
        transformer=random_params(abstract_transformer(sizes)),
        transformer_config=sizes,
        text={name: random_params(tree) for name, tree in abstract.items()},
        text_config=TextConfig(clip_l, clip_g, t5 if with_t5 else absent),
    )
    path = tmp_path / "model.safetensors"
    write(path, model, networks=NETWORKS)
    parts = read_parts(path, known={"vae": pipeline.vae_config})
    read = assemble(parts, where=str(path), absent_t5=77)
    assert read.text_config == model.text_config
    assert trees.digest(read.text) == trees.digest(model.text)


def test_a_file_that_the_library_wrote_comes_back_byte_for_byte(path, pipeline, tmp_path):
    theirs = tmp_path / "theirs.safetensors"
    stored = {name: array.astype(np.float16) for name, array in load_file(path).items()}
    metadata = {"modelspec.title": "é", "format": "pt"}
    save_file(stored, theirs, metadata)
    known = {"vae": pipeline.vae_config}
    parts = read_parts(theirs, known=known, place=lambda _: Placement())
    ours = tmp_path / "ours.safetensors"
    write_sai(ours, parts, metadata=open_safetensors(theirs).metadata)
    assert bodies(ours) == bodies(theirs)
    assert open_safetensors(ours).metadata == metadata


def bodies(path):
    """A file's header without metadata (whose order the library draws anew), and its data."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    return list(header.items()), content[8 + length :]


def test_a_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    strange = dict.fromkeys(("conv_in.weight", "conv_out.weight"), np.zeros((2, 2), np.float32))
    write_safetensors(path, in_memory(strange))
    with pytest.raises(InputError, match=r"conv_in.weight, conv_out.weight: of no network of it"):
        read_parts(path)


def test_what_is_wrong_with_any_network_is_in_one_error(path, pipeline):
    tensors = dict(open_safetensors(path))
    del tensors["model.diffusion_model.final_layer.linear.bias"]
    del tensors["first_stage_model.encoder.conv_in.bias"]
    tensors["first_stage_model.encoder.more"] = np.zeros(1, np.float32)
    write_safetensors(path, in_memory(tensors))
    known = {"transformer": pipeline.transformer_config, "vae": pipeline.vae_config}
    with pytest.raises(InputError) as caught:
        read_parts(path, known=known)
    message = str(caught.value)
    assert all(name in message for name in ("linear.bias", "encoder.conv_in.bias", "unexpected"))
    assert "\n" not in message
