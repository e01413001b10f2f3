"""Any checkpoint: what its own file says wins, and what it does not say is the base's, or said."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from flashjax import trees
from flashjax.checkpoint import save_params
from flashjax.cli import main
from flashjax.convert.folder import (
    read_configs,
    read_pipeline,
    read_transformer,
    write_pipeline,
)
from flashjax.convert.reading import open_safetensors
from flashjax.convert.sai import model_spec, write_sai
from flashjax.convert.transformer import abstract_transformer, transformer_to
from flashjax.convert.vae import abstract_vae
from flashjax.quantize.containers.gguf_export import quantize_transformer
from flashjax.sources import name_of, open_pipeline, read_parts, sample_size_of
from flashjax.types import InputError

SIDE = 8  # of the tiny teacher's latents; its position table would take 16


@pytest.fixture(scope="module")
def transformer(tiny_teacher):
    """The tiny teacher's parameters and sizes."""
    return read_transformer(tiny_teacher / "transformer")


def gguf(path, params, config):
    quantize_transformer(transformer_to(params, config, "sai").items(), scheme="f16", path=path)
    return path


def exported(source, out, *flags):
    flags = ["--source", str(source), "--out", str(out), "--format", "diffusers,sai", *flags]
    assert main(["export", *flags]) == 0
    config = json.loads((out / "diffusers/transformer/config.json").read_text())
    return config["sample_size"]


def test_export_keeps_the_sample_size_of_a_transformer_alone(tiny_teacher, tmp_path):
    assert exported(tiny_teacher / "transformer", tmp_path) == SIDE
    assert exported(tmp_path / "model.safetensors", tmp_path / "single") == SIDE


def test_a_sample_size_that_no_file_says_is_the_bases_or_sd3s(
    transformer, tiny_teacher, tmp_path, caplog
):
    caplog.set_level("INFO", "flashjax")
    path = gguf(tmp_path / "model.gguf", *transformer)
    assert exported(path, tmp_path / "based", "--base", str(tiny_teacher)) == SIDE
    said = f"{path} does not say the size of its pictures: sample_size is taken to be 16"
    assert said not in caplog.messages
    assert exported(path, tmp_path / "alone") == 16
    assert said in caplog.messages


@pytest.mark.parametrize("resolution", ["1024x1024", "1024x512", "wide", "0x0", "9" * 99])
def test_a_resolution_beyond_the_position_table_is_not_believed(
    resolution, transformer, tiny_teacher, tmp_path
):
    path = tmp_path / "model.safetensors"
    metadata = model_spec(transformer[1], title="", side=1)
    metadata |= {"modelspec.resolution": resolution}
    write_sai(path, {"transformer": transformer}, metadata=metadata)
    assert sample_size_of(path, transformer[1], factor=8, base=tiny_teacher) == SIDE


def resolution(path):
    return open_safetensors(path).metadata["modelspec.resolution"]


def test_a_size_in_pixels_is_that_of_the_models_own_autoencoder(
    shallow_teacher, random_params, tmp_path
):
    """Of one whose latents are 2 pixels wide: in its folder, in its file, and in a base."""
    whole = read_pipeline(shallow_teacher)
    small = dataclasses.replace(whole.vae_config, channels=whole.vae_config.channels[:2])
    made = dataclasses.replace(
        whole, vae=random_params(abstract_vae(small)), vae_config=small, sample_size=SIDE
    )
    model = tmp_path / "model"
    write_pipeline(model, made, tokenizers_from=shallow_teacher)
    assert exported(model, tmp_path / "a") == SIDE
    file, base = tmp_path / "a" / "model.safetensors", ("--base", str(model))
    assert exported(file, tmp_path / "b", *base) == SIDE
    assert exported(model / "transformer", tmp_path / "c", *base) == SIDE
    assert exported(tmp_path / "c" / "model.safetensors", tmp_path / "d", *base) == SIDE
    assert open_pipeline(file, base=model).sample_size == SIDE
    for source, flags in ((model, ()), (file, ()), (model / "transformer", base)):
        out = tmp_path / f"{source.name}.safetensors"
        flags = ("--source", str(source), "--out", str(out), "--format", "comfy-int8", *flags)
        assert main(["quantize", *flags]) == 0
        assert resolution(out) == resolution(file) == "16x16"
        out.unlink()


def test_a_files_own_sizes_win_over_the_bases(tiny_teacher, random_params, tmp_path):
    known = read_configs(tiny_teacher)
    larger = dataclasses.replace(known["transformer"], depth=3, heads=2, dual=0, position_size=12)
    params = random_params(abstract_transformer(larger))
    write_sai(tmp_path / "a.safetensors", {"transformer": (params, larger)}, metadata={})
    for path in (tmp_path / "a.safetensors", gguf(tmp_path / "a.gguf", params, larger)):
        found, config = read_parts(path, known=known)["transformer"]
        assert config == larger
        pipeline = open_pipeline(path, base=tiny_teacher)
        assert pipeline.transformer_config == larger and pipeline.sample_size == SIDE
        np.testing.assert_allclose(
            found["dual" if larger.dual else "joint"]["image"]["fc1"]["kernel"],
            params["joint"]["image"]["fc1"]["kernel"],
            atol=1e-3,
        )


@pytest.mark.parametrize(("places", "side"), [(6, SIDE), (2, 4)])
def test_what_quantize_crops_draws_with_the_whole_models_folder(
    places, side, tiny_teacher, tmp_path
):
    flags = ["--source", str(tiny_teacher), "--out", str(tmp_path), "--position", str(places)]
    assert main(["quantize", *flags, "--format", "gguf-f16,comfy-int8"]) == 0
    for name in ("transformer-f16.gguf", "transformer-comfy-int8.safetensors"):
        pipeline = open_pipeline(tmp_path / name, base=tiny_teacher)
        assert pipeline.transformer_config.position_size == places
        assert pipeline.sample_size == side


def test_parameters_of_a_stage_must_fit_the_base(transformer, tiny_teacher, tmp_path):
    params, config = transformer
    save_params(tmp_path / "params", params)
    known = read_configs(tiny_teacher)
    found, sizes = read_parts(tmp_path, known=known)["transformer"]
    assert sizes == config
    assert trees.digest(jax.device_get(found)) == trees.digest(params)
    known["transformer"] = dataclasses.replace(config, heads=2)
    with pytest.raises(InputError, match="with the sizes of --base, does not fit the model"):
        read_parts(tmp_path, known=known)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/m/stable-diffusion-3.5-medium", "stable-diffusion-3.5-medium"),
        ("/m/sd3.5_large.safetensors", "sd3.5_large"),
        ("sd3.5-Q6_K.GGUF", "sd3.5-Q6_K"),
    ],
)
def test_a_checkpoint_keeps_its_name_whatever_dots_it_has(path, name):
    assert name_of(Path(path)) == name
