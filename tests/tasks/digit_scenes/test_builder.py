"""The dataset on disk is the composed scenes, whole or not there at all, without TensorFlow."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flashjax.tasks.digit_scenes.builder import open_scenes
from flashjax.tasks.digit_scenes.scenes import compose
from flashjax.types import InputError

COUNTS = {"train": 12, "validation": 5}

KILLED = """
import os, sys
from pathlib import Path
from flashjax.tasks.digit_scenes import builder as digit_scenes

def compose(seed, index, split):
    if (split, index) == ("validation", 2):
        os._exit(9)  # as SIGKILL: nothing is tidied up
    return real(seed, index, split)

real, digit_scenes.compose = digit_scenes.compose, compose
digit_scenes.open_scenes(Path(sys.argv[1]), seed=1, train=12, validation=5)
"""


def check_scenes(folder: Path) -> None:
    scenes = open_scenes(folder, seed=1, **COUNTS)
    for split, count in COUNTS.items():
        assert len(scenes[split]) == count
        for index in range(count):
            stored, drawn = scenes[split][index], compose(1, index, split)
            assert np.array_equal(stored["image"], drawn.image)
            assert stored["image"].dtype == np.uint8
            assert stored["caption"].decode() == drawn.caption
            assert stored["index"] == index


def test_the_stored_scenes_are_the_composed_ones_in_order(tmp_path):
    check_scenes(tmp_path)


def test_a_prepared_dataset_is_opened_and_not_composed_again(tmp_path, monkeypatch):
    check_scenes(tmp_path)
    monkeypatch.setattr(
        "flashjax.tasks.digit_scenes.builder.compose", None
    )  # would raise if called
    assert len(open_scenes(tmp_path, seed=1, **COUNTS)["train"]) == 12


def test_a_killed_preparation_is_not_taken_for_a_finished_one(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    assert list(tmp_path.rglob("*train*"))  # it did get somewhere
    check_scenes(tmp_path)


def test_other_counts_or_seeds_are_another_dataset(tmp_path):
    first = open_scenes(tmp_path, seed=1, train=2, validation=1)["train"]
    second = open_scenes(tmp_path, seed=2, train=3, validation=1)["train"]
    assert (len(first), len(second)) == (2, 3)
    assert not np.array_equal(first[0]["image"], second[0]["image"])


def test_tensorflow_is_never_imported(tmp_path):
    open_scenes(tmp_path, seed=1, train=1, validation=1)
    assert "tensorflow" not in sys.modules


def test_no_scenes_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="train = 0"):
        open_scenes(tmp_path, seed=1, train=0, validation=1)
