"""What an evaluation keeps: rows, and the pictures that a report shows under their captions."""

import json

import numpy as np
import pytest

from flashjax.evaluate.unseen import Unseen
from flashjax.stages.evaluate import DRAWN, PICTURES, ROW, SHOWN, gather
from flashjax.stages.stage import write_json

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
