"""The reader behind the seam: the figures are those of alignment and distance, with their error."""

import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from flashjax.data.samples import captions_of, images_of
from flashjax.evaluate.unseen import halves
from flashjax.tasks import NAMES, open_task, task_of
from flashjax.tasks.digit_scenes.judge import figures_of, open_judge
from flashjax.types import InputError

TASK = open_task("digit_scenes")
WEIGHTS = TASK.weights(Path(str(files("flashjax"))) / "assets" / TASK.pipeline)
SHARES = {"count": 1.0, "value": 0.75, "colour": 1.0, "place": 1.0, "background": 1.0}


def test_standard_error_is_that_of_the_mean_of_its_outcomes():
    outcomes = np.repeat([1.0, 0.0], [300, 100])
    whole = figures_of({"whole": 0.75, **SHARES}, 1.0, samples=400)[0]
    assert math.isclose(whole.error, 100 * outcomes.std() / math.sqrt(400))
    assert whole.value == 75.0 and whole.unit == "%" and whole.title == "Alignment"


def test_real_scenes_are_judged_to_be_what_their_captions_say():
    unseen = halves(TASK.unseen(48, 3), 24, side=TASK.side)
    judge = open_judge(WEIGHTS, unseen.others)
    figures = {figure.name: figure for figure in judge.judge(unseen.images, unseen.captions)}
    assert figures["whole"].value >= 90 and figures["background"].value == 100
    wrong = judge.judge(unseen.images, unseen.captions[1:] + unseen.captions[:1])
    assert wrong[0].value < 50
    noise = np.random.default_rng(0).integers(0, 255, unseen.images.shape, np.uint8)
    far = {figure.name: figure for figure in judge.judge(noise, unseen.captions)}
    assert far["Fréchet"].value > 2 * figures["Fréchet"].value
    assert far["Fréchet"].better == "less"
    assert figures["precision"].value > 60 and figures["recall"].value > 60
    assert far["precision"].value == 0
    assert "4,000 real validation scenes" in judge.note and "value 9" in judge.note


def test_captions_that_ask_for_nothing_are_met_by_scenes_that_can_be_read():
    unseen = halves(TASK.unseen(48, 3), 24, side=TASK.side)
    judge = open_judge(WEIGHTS, unseen.others)
    figures = {figure.name: figure for figure in judge.judge(unseen.images, [""] * 24)}
    assert figures["whole"].value >= 90 and "colour" not in figures
    blended = (unseen.images.astype(int) + np.roll(unseen.images, 1, 0)).astype(int) // 2
    blurred = judge.judge(blended.astype(np.uint8), [""] * 24)
    assert blurred[0].value < 60
    empty = np.full_like(unseen.images, 128)
    assert judge.judge(empty, [""] * 24)[0].value == 0


def test_prompts_of_another_world_are_refused_before_anything_is_drawn():
    judge = open_judge(WEIGHTS, images_of(TASK.unseen(4, 0)))
    judge.check(captions_of(TASK.unseen(4, 0)))
    with pytest.raises(InputError, match="a photo of a cat"):
        judge.check(["a photo of a cat"] * 4)
    with pytest.raises(InputError, match="needs 4 pictures, 3 are to be drawn"):
        judge.check(captions_of(TASK.unseen(3, 0)))
    with pytest.raises(InputError, match=r"data\.source has no pictures"):
        open_judge(WEIGHTS, None)


def test_a_task_is_known_by_the_size_of_its_pictures_and_its_words():
    words = {word for word in TASK.words if len(word) > 1}
    assert task_of(TASK.side, words).name in NAMES
    assert task_of(2 * TASK.side, words) is None
    assert task_of(TASK.side, words | {"cat"}) is None


def test_stored_and_composed_samples_say_what_they_are(tmp_path):
    samples = TASK.open(tmp_path, seed=1, train=3, validation=2)
    assert {split: len(found) for split, found in samples.items()} == {"train": 3, "validation": 2}
    assert samples["train"].digest != samples["validation"].digest
    image, caption = samples["train"][0]
    assert image.shape == (TASK.side, TASK.side, 3) and image.dtype == np.uint8 and caption
    assert "seed=1" in samples["train"].name
    assert len(halves(samples["train"], 2, side=TASK.side).others) == 1  # as if one were broken
    with pytest.raises(InputError, match="3 to draw and as many to compare"):
        halves(samples["train"], 3, side=TASK.side)
