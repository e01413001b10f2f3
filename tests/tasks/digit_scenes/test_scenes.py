"""Scenes follow from (seed, split, index) alone, and show what their captions say."""

import hashlib

import numpy as np

from flashjax.tasks.digit_scenes.scenes import (
    BACKGROUNDS,
    COLOURS,
    SIDE,
    compose,
    parse_caption,
    wanted_of,
)

EXAMPLES = [compose(3, index, "train") for index in range(400)]


def test_an_example_follows_from_seed_split_and_index_alone():
    again = compose(3, 7, "train")
    assert np.array_equal(again.image, EXAMPLES[7].image)
    assert (again.caption, again.scene) == (EXAMPLES[7].caption, EXAMPLES[7].scene)
    others = [compose(4, 7, "train"), compose(3, 8, "train"), compose(3, 7, "validation")]
    assert all(not np.array_equal(again.image, other.image) for other in others)


def test_no_two_examples_are_the_same_picture():
    digests = {hashlib.sha256(example.image.tobytes()).digest() for example in EXAMPLES}
    assert len(digests) == len(EXAMPLES)
    assert all(e.image.shape == (SIDE, SIDE, 3) and e.image.dtype == np.uint8 for e in EXAMPLES)


def test_the_caption_names_the_scene():
    assert all(parse_caption(e.caption) == wanted_of(e.scene) for e in EXAMPLES)


def test_the_relation_of_two_digits_holds_by_a_clear_margin():
    for scene in (e.scene for e in EXAMPLES if len(e.scene.digits) == 2):
        first, second = scene.digits
        across, down = second.x - first.x, second.y - first.y
        along, aside = (across, down) if scene.place == "left" else (down, across)
        assert along > 24 and along > abs(aside) + 8


def test_every_digit_stays_on_the_canvas():
    for digit in (d for e in EXAMPLES for d in e.scene.digits):
        assert 14 < digit.x < SIDE - 14 and 14 < digit.y < SIDE - 14


def test_scenes_cover_every_value_colour_ground_and_place():
    scenes = [e.scene for e in EXAMPLES]
    assert {d.value for s in scenes for d in s.digits} == set(range(10))
    assert {d.colour for s in scenes for d in s.digits} == set(COLOURS)
    assert {s.background for s in scenes} == set(BACKGROUNDS)
    assert {s.place for s in scenes} == {"left", "right", "top", "bottom", "center", "above"}
    assert 0.28 < np.mean([len(s.digits) == 1 for s in scenes]) < 0.42


def test_ink_stands_out_from_the_ground():
    """The strongest ink near each digit is far in colour from the picture's border."""
    for example in EXAMPLES[:100]:
        ground = example.image[:2].reshape(-1, 3).mean(0)
        for digit in example.scene.digits:
            x, y = int(digit.x), int(digit.y)
            patch = example.image[y - 10 : y + 10, x - 10 : x + 10].reshape(-1, 3).astype(float)
            assert np.percentile(np.abs(patch - ground).max(1), 95) > 60
