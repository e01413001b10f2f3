"""The pipeline's folder: the oracle is `StableDiffusion3Pipeline`, offline."""

import dataclasses
import json

import diffusers
import jax
import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel

from flashjax import trees
from flashjax.convert.folder import read_pipeline, write_pipeline
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.transformer import transformer_to
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
    with pytest.raises(InputError, match="holds NaN or infinity: mend the checkpoint"):
        write_pipeline(
            folder, dataclasses.replace(pipeline, text=broken), tokenizers_from=tokenizers
        )
    assert_same_pipeline(read_pipeline(folder), pipeline)
    assert list(folder.parent.iterdir()) == [folder]


def edit(path, **values):
    """Sets keys of a JSON file; `...` takes one out."""
    content = json.loads(path.read_text()) | values
    kept = {key: value for key, value in content.items() if value is not ...}
    path.write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("norm", "dual"), [(None, ()), ("rms_norm", ()), ("rms_norm", (0,))], ids=["3M", "3.5L", "3.5M"]
)
def test_folders_as_released_leave_out_what_diffusers_fills_in(norm, dual, folder, pipeline):
    torch.manual_seed(0)
    sizes = pipeline.transformer_config
    model = diffusers.SD3Transformer2DModel(
        sample_size=8,
        num_layers=3,
        num_attention_heads=3,
        attention_head_dim=8,
        joint_attention_dim=48,
        caption_projection_dim=24,
        pooled_projection_dim=sizes.pooled_width,
        pos_embed_max_size=8,
        dual_attention_layers=dual,
        qk_norm=norm,
    )
    model.save_pretrained(folder / "transformer")
    absent = {"qk_norm": ... if norm is None else norm}
    absent |= {"dual_attention_layers": list(dual) or ...}
    edit(folder / "transformer/config.json", patch_size=..., in_channels=..., **absent, more=1)
    edit(folder / "vae/config.json", mid_block_add_attention=..., act_fn=..., latents_mean=None)
    edit(folder / "scheduler/scheduler_config.json", shift=..., num_train_timesteps=...)
    edit(folder / "text_encoder/config.json", layer_norm_eps=..., hidden_act=..., model_type=...)
    edit(
        folder / "text_encoder_3/config.json", relative_attention_num_buckets=..., dropout_rate=...
    )
    edit(folder / "model_index.json", image_encoder=[None, None], feature_extractor=[None, None])

    read, want = read_pipeline(folder), load(folder)
    found = transformer_to(read.transformer, read.transformer_config, "diffusers")
    state = want.transformer.state_dict()
    assert found.shapes == {name: tuple(value.shape) for name, value in state.items()}
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.numpy(), err_msg=name)
    same = dataclasses.replace(pipeline, schedule=Schedule(want.scheduler.config.shift))
    assert read.schedule == same.schedule == Schedule(1.0)
    assert (read.vae_config, read.text_config) == (same.vae_config, same.text_config)


def test_the_settings_of_a_scheduler_are_kept(folder, pipeline, tokenizers, tmp_path):
    schedule = Schedule(
        use_dynamic_shifting=True, max_shift=2.0, shift_terminal=0.05, use_beta_sigmas=True
    )
    edit(folder / "scheduler/scheduler_config.json", **dataclasses.asdict(schedule))
    read = read_pipeline(folder)
    write_pipeline(tmp_path / "again", read, tokenizers_from=folder)
    scheduler = load(tmp_path / "again").scheduler
    for name, value in dataclasses.asdict(schedule).items():
        assert scheduler.config[name] == value, name
    assert read.shift == schedule.shift_of(16)


@pytest.mark.parametrize("entry", [..., None, [None, None]])
def test_a_t5_that_the_index_leaves_out_is_said(entry, folder, caplog):
    caplog.set_level("INFO", "flashjax")
    edit(folder / "model_index.json", text_encoder_3=entry, tokenizer_3=entry)
    assert "t5" not in read_pipeline(folder).text
    assert caplog.messages == [
        f"{folder} is read without T5, which its model_index.json leaves out"
    ]


@pytest.mark.parametrize("entry", [..., None, [None, None]])
def test_a_t5_whose_tokenizer_the_index_leaves_out_is_refused(entry, folder):
    """It would be told nothing, and the transformer would see no token of it."""
    edit(folder / "model_index.json", tokenizer_3=entry)
    with pytest.raises(InputError, match=r"names text_encoder_3 and no tokenizer_3: name it, or"):
        read_pipeline(folder)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("transformer", ["diffusers", "FluxTransformer2DModel"], "only SD3Transformer2DModel is"),
        ("vae", ["diffusers", "AutoencoderTiny"], "only AutoencoderKL is supported"),
        ("scheduler", ["diffusers", "FlowMatchHeunDiscreteScheduler"], "only FlowMatchEuler"),
        ("text_encoder", ["transformers", "CLIPTextModel"], "only CLIPTextModelWithProjection is"),
        ("text_encoder_3", "T5EncoderModel", r"give \[library, class\]"),
        ("text_encoder_3", ["T5EncoderModel"], r"give \[library, class\]"),
        ("text_encoder_3", 3, r"give \[library, class\]"),
    ],
)
def test_an_index_of_other_classes_is_refused(name, entry, message, folder):
    edit(folder / "model_index.json", **{name: entry})
    with pytest.raises(InputError, match=rf"model_index.json: {name} is .*; {message}"):
        read_pipeline(folder)


def test_networks_that_do_not_fit_on_each_other_are_named(folder):
    edit(folder / "text_encoder_3/config.json", d_model=40, d_ff=32)
    sizes = T5EncoderModel(T5Config.from_pretrained(folder / "text_encoder_3"))
    sizes.save_pretrained(folder / "text_encoder_3")
    with pytest.raises(InputError, match=r"T5's tokens have 40 numbers, the transformer takes 48;"):
        read_pipeline(folder)


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
