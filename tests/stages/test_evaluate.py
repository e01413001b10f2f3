"""What an evaluation keeps: rows, and the pictures that a report shows under their captions."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from flashjax.data.cache import Cache
from flashjax.evaluate.unseen import Unseen
from flashjax.stages import evaluate
from flashjax.stages.evaluate import DRAWN, PICTURES, ROW, SHOWN, gather, inputs_of
from flashjax.stages.stage import write_json
from flashjax.types import InputError

CAPTIONS = ["one", "two"]


@pytest.mark.parametrize("prompts", [CAPTIONS, ["three", "four"]])
def test_real_pictures_stand_under_their_own_captions_alone(prompts, tmp_path):
    place = tmp_path / DRAWN / "00"
    place.mkdir(parents=True)
    write_json(place / ROW, {"name": "teacher"})
    np.save(place / SHOWN, np.ones((2, 4, 4, 3), np.uint8))
    unseen = Unseen(CAPTIONS, np.zeros((2, 4, 4, 3), np.uint8), None, [])
    found = gather(tmp_path, [place], unseen, [], prompts)
    names = [row["name"] for row in found["rows"]]
    assert names == (["real pictures", "teacher"] if prompts == CAPTIONS else ["teacher"])
    assert len(np.load(tmp_path / PICTURES)) == len(names)
    assert json.loads((tmp_path / "captions.json").read_text()) == prompts
    assert not (tmp_path / DRAWN).exists()


def test_of_captions_that_are_drawn_twice_real_pictures_are_shown_once(tmp_path):
    place = tmp_path / DRAWN / "00"
    place.mkdir(parents=True)
    write_json(place / ROW, {"name": "teacher"})
    np.save(place / SHOWN, np.ones((3, 4, 4, 3), np.uint8))
    unseen = Unseen(CAPTIONS, np.zeros((2, 4, 4, 3), np.uint8), None, [])
    gather(tmp_path, [place], unseen, [], [*CAPTIONS, *CAPTIONS])
    assert np.load(tmp_path / PICTURES).shape == (2, 2, 4, 4, 3)
    assert json.loads((tmp_path / "captions.json").read_text()) == CAPTIONS


def test_prompts_and_weights_of_judges_are_inputs(tmp_path):
    (tmp_path / "p.txt").write_text("a red seven")
    (tmp_path / "clip").mkdir()
    judges = ("digit_scenes", f"clip={tmp_path / 'clip'}", "fid=/nowhere")
    config = ConfigDict({"evaluate": {"prompts": str(tmp_path / "p.txt"), "judges": judges}})
    assert list(inputs_of(config).values()) == [tmp_path / "p.txt", tmp_path / "clip"]
    config.evaluate.update(prompts="", judges=("detail",))
    assert inputs_of(config) == {}


@pytest.mark.parametrize(("prompts", "held_out"), [("", [1, 2]), ("p.txt", [])])
def test_data_that_changed_since_it_was_prepared_has_nothing_held_out(
    prompts, held_out, tmp_path, monkeypatch
):
    """One picture more, and the split is another: what is drawn was trained on."""
    train = SimpleNamespace(digest="new")
    monkeypatch.setattr(
        evaluate, "open_samples", lambda *_: {"train": train, "validation": held_out}
    )
    (tmp_path / "prepare").mkdir()
    Cache({"digest": "old"}, {"side": 64}, (), {}).write(tmp_path / "prepare")
    config = ConfigDict({"evaluate": {"samples": 1, "prompts": prompts}})
    with pytest.raises(InputError, match=r"data\.source has changed since `prepare`"):
        evaluate.open_unseen(config, tmp_path)
