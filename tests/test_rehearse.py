"""The rehearsal's teacher and data are what it says, and its checks see what is wrong."""

import json

import numpy as np
import pytest

from flashjax import trees
from flashjax.convert import folder as folders
from flashjax.convert import sai
from flashjax.convert.reading import open_safetensors
from flashjax.data.files import Address
from flashjax.data.kinds.folder import open_folder
from flashjax.data.kinds.listed import Wording
from flashjax.data.prompts import read_prompts
from flashjax.data.samples import Unreadable
from flashjax.data.tokenizers import load_tokenizers
from flashjax.launch import rehearse
from flashjax.launch.rehearsal import checks, data
from flashjax.launch.rehearsal.teacher import T5_FILES, Narrow, write_teacher
from flashjax.stages.stage import write_json


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Both layouts, with fewer blocks and a smaller table."""
    narrow = Narrow(4, 2, heads=1, position_size=8, channels=(8, 8, 8, 8), groups=2)
    return write_teacher(tmp_path_factory.mktemp("teacher"), data.words(), narrow)


def test_the_folder_is_laid_out_as_sd35_medium_is(teacher):
    assert (Narrow().depth, Narrow().dual, Narrow().position_size) == (24, 13, 384)
    config = json.loads((teacher[0] / "transformer" / "config.json").read_text())
    wanted = {"attention_head_dim": 64, "in_channels": 16, "qk_norm": "rms_norm", "patch_size": 2}
    wanted |= {"sample_size": 128, "dual_attention_layers": [0, 1]}
    assert {key: config[key] for key in wanted} == wanted
    schedule = json.loads((teacher[0] / "scheduler" / "scheduler_config.json").read_text())
    assert schedule["shift"] == 3.0
    found = sai.split_file(open_safetensors(teacher[1]))
    assert set(found) == {"transformer", "vae", "clip_l", "clip_g", "t5"}


def test_both_layouts_hold_equal_parameters(teacher):
    folder, single = teacher
    first = folders.read_parts(folder)
    second = sai.read_parts(single, known=folders.read_configs(folder))
    assert first.keys() == second.keys()
    for name, (params, config) in first.items():
        assert config == second[name][1], name
        others = trees.flatten(second[name][0])
        for path, leaf in trees.flatten(params).items():
            assert np.array_equal(leaf, others[path]) and np.any(leaf), f"{name}/{path}"


def test_t5_lies_in_several_files_with_rows_that_no_token_has(teacher):
    folder = teacher[0] / "text_encoder_3"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) >= T5_FILES
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer = load_tokenizers(teacher[0])
    assert rows > len(tokenizer.t5) and (tokenizer.clip_length, tokenizer.t5_length) == (77, 256)


def test_pictures_have_several_shapes_and_some_cannot_be_read(tmp_path):
    count = data.write_pictures(tmp_path / "p", 20, 64)
    samples, shapes, broken = open_folder(Address.of(tmp_path / "p"), Wording()), set(), 0
    for index in range(len(samples)):
        try:
            height, width, _ = samples[index].image.shape
            shapes.add(round(width / height, 1))
        except Unreadable:
            broken += 1
    assert len(samples) == count and broken == 4 and len(shapes) >= 4


def test_prompts_come_out_of_their_dirt_as_they_were_meant(tmp_path):
    assert data.write_prompts(tmp_path / "p.txt") == len(data.PROMPTS)
    assert (tmp_path / "p.txt").read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_prompts(tmp_path / "p.txt") == [prompt.strip() for prompt in data.PROMPTS]
    assert max(len(prompt.split()) for prompt in data.PROMPTS) == data.FAR_TOO_LONG


def test_a_job_that_began_again_is_seen(tmp_path):
    done = "".join(f"{stage} skipped: already done\n" for stage in ("import", "prepare", "guide"))
    assert checks.training_went_on(f"{done}match goes on from step 2\n") == "from step 2"
    with pytest.raises(AssertionError, match="guide was done again"):
        checks.training_went_on(done.replace("guide", "other") + "match goes on from step 2\n")
    with pytest.raises(ValueError):
        checks.training_went_on(done)


def test_a_stage_that_is_left_is_named(tmp_path):
    nothing = {key: {} for key in ("section", "inputs", "versions", "results", "contents")}
    record = {"status": "done", "seconds": 1.0, "seed": 0, **nothing}
    for stage in checks.STAGES:
        (tmp_path / stage).mkdir()
        write_json(tmp_path / stage / "stage.json", record)
    assert "report 1 s" in checks.stages_are_done(tmp_path)
    write_json(tmp_path / "split" / "stage.json", record | {"status": "running"})
    with pytest.raises(AssertionError, match="not done: split"):
        checks.stages_are_done(tmp_path)


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    assert not rehearse.clear(tmp_path) and (tmp_path / "mine").read_text() == "mine"
    (tmp_path / rehearse.OURS).write_text("a file of that name")
    assert not rehearse.clear(tmp_path) and (tmp_path / "mine").read_text() == "mine"
    assert rehearse.clear(tmp_path / "new") and rehearse.clear(tmp_path / "new")
