"""The pipeline's folder: the oracle is `StableDiffusion3Pipeline`, offline."""

import dataclasses

import diffusers
import jax
import numpy as np
import pytest
import torch

from flashjax import trees
from flashjax.convert.folder import read_pipeline, write_pipeline
from flashjax.convert.pipeline import Pipeline
from flashjax.data.tokenizers import load_tokenizers
from flashjax.flow.schedule import Schedule
from flashjax.models.text import encode_text
from flashjax.types import InputError

LENGTH = 12  # of the tokenizers in conftest.py
PROMPTS = ["a red seven", "a blue three left of a green one"]


@pytest.fixture
def folder(tmp_path, pipeline, tokenizers):
    write_pipeline(tmp_path / "model", pipeline, tokenizers_from=tokenizers, dtype=np.float32)
    return tmp_path / "model"


def load(folder):
    return diffusers.StableDiffusion3Pipeline.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    )


def test_diffusers_loads_and_samples_an_exported_folder(folder):
    sampler = load(folder)
    sampler.set_progress_bar_config(disable=True)
    images = sampler(
        PROMPTS, num_inference_steps=2, max_sequence_length=LENGTH, output_type="np"
    ).images
    assert images.shape == (2, 16, 16, 3)
    assert np.isfinite(images).all()
    assert sampler.scheduler.config.shift == 3.0


def test_diffusers_conditions_as_we_do(folder, pipeline):
    text, _, pooled, _ = load(folder).encode_prompt(
        PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=LENGTH
    )
    tokens = load_tokenizers(folder)(PROMPTS)
    config = pipeline.text_config
    cond = jax.jit(lambda p, t: encode_text(config, p, t))(pipeline.text, tokens)
    np.testing.assert_allclose(cond.text, text.numpy(force=True), atol=1e-4, rtol=0)
    np.testing.assert_allclose(cond.pooled, pooled.numpy(force=True), atol=1e-4, rtol=0)


def assert_same_pipeline(read, want):
    for field in dataclasses.fields(Pipeline):
        read_value, wanted = getattr(read, field.name), getattr(want, field.name)
        if field.name in ("transformer", "vae", "text"):
            assert trees.digest(read_value) == trees.digest(wanted), field.name
        else:
            assert read_value == wanted, field.name


def test_a_folder_is_read_as_it_was_written(folder, pipeline):
    assert_same_pipeline(read_pipeline(folder), pipeline)


def test_a_folder_that_diffusers_saved_is_read(folder, pipeline, tmp_path):
    load(folder).save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert (tmp_path / "saved/text_encoder_3/model.safetensors.index.json").is_file()
    assert_same_pipeline(read_pipeline(tmp_path / "saved"), pipeline)


def test_an_older_pipeline_is_replaced_and_anything_else_is_kept(folder, pipeline, tokenizers):
    newer = dataclasses.replace(pipeline, schedule=Schedule(1.0))
    write_pipeline(folder, newer, tokenizers_from=folder)
    assert read_pipeline(folder).schedule == newer.schedule
    assert list(folder.parent.iterdir()) == [folder]

    (folder / "model_index.json").unlink()
    with pytest.raises(InputError, match="holds something that is no pipeline"):
        write_pipeline(folder, pipeline, tokenizers_from=tokenizers)
    with pytest.raises(InputError, match=r"has no model_index.json"):
        read_pipeline(folder)


def test_a_failed_export_leaves_the_older_pipeline(folder, pipeline, tokenizers):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, pipeline.text)
    with pytest.raises(InputError, match="not finite in float16"):
        write_pipeline(
            folder, dataclasses.replace(pipeline, text=broken), tokenizers_from=tokenizers
        )
    assert_same_pipeline(read_pipeline(folder), pipeline)
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    "file",
    ["vae/config.json", "text_encoder_3/model.safetensors", "scheduler/scheduler_config.json"],
)
def test_a_missing_part_is_named(file, folder):
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file} does not exist"):
        read_pipeline(folder)


def test_a_config_that_is_not_json_is_named(folder):
    (folder / "vae/config.json").write_text("{")
    with pytest.raises(InputError, match=r"vae/config.json is not JSON"):
        read_pipeline(folder)
