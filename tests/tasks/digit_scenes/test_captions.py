"""Captions name every attribute in at most ten known words, and can be read back."""

import numpy as np
import pytest

from flashjax.tasks.digit_scenes.captions import (
    Digit,
    Scene,
    Wanted,
    caption_of,
    parse_caption,
    vocabulary,
    wanted_of,
)
from flashjax.types import InputError

RED_SEVEN, BLUE_THREE = Digit(7, "red", 17, 32, 26), Digit(3, "blue", 47, 32, 26)


def random_scene(rng: np.random.Generator) -> Scene:
    count = int(rng.integers(1, 3))
    digits = tuple(
        Digit(int(rng.integers(10)), str(rng.choice(["red", "pink", "cyan", "yellow"])), 0, 0, 26)
        for _ in range(count)
    )
    places = ("left", "right", "top", "bottom", "center") if count == 1 else ("left", "above")
    return Scene(digits, str(rng.choice(["white", "gray", "black", "brown"])), rng.choice(places))


def test_every_caption_is_read_back_exactly():
    rng = np.random.default_rng(0)
    for _ in range(5000):
        scene = random_scene(rng)
        caption = caption_of(scene, rng)
        words = caption.split()
        assert parse_caption(caption) == wanted_of(scene), caption
        assert set(words) <= set(vocabulary()) and len(words) <= 10


def test_two_digits_have_twelve_captions_and_one_digit_four():
    rng = np.random.default_rng(0)
    two, one = Scene((RED_SEVEN, BLUE_THREE), "white", "left"), Scene((RED_SEVEN,), "white", "left")
    assert len({caption_of(two, rng) for _ in range(400)}) == 12
    assert len({caption_of(one, rng) for _ in range(400)}) == 4


def test_captions_written_by_hand_are_understood():
    pair = Wanted(((7, "red"), (3, "blue")), "left", "white")
    assert parse_caption("a red seven left of a blue three on white") == pair
    assert parse_caption("blue three right of red seven white background") == pair
    assert parse_caption("blue three right and red seven left on white") == pair
    stacked = Wanted(((3, "blue"), (7, "red")), "above", "black")
    assert parse_caption("on black a red seven below a blue three") == stacked
    single = Wanted(((7, "red"),), "top", "white")
    assert parse_caption("a red seven at the top on white") == single


@pytest.mark.parametrize("caption", ["a red cat on white", "a red seven", "red seven left of"])
def test_words_that_are_no_caption_are_an_input_error(caption):
    with pytest.raises(InputError, match="cannot be read"):
        parse_caption(caption)


def test_the_vocabulary_is_sorted_and_every_word_of_it_is_used():
    rng = np.random.default_rng(1)
    used = {word for _ in range(9000) for word in caption_of(random_scene(rng), rng).split()}
    assert list(vocabulary()) == sorted(vocabulary())
    assert set(vocabulary()) - used == {"green", "blue"}  # colours random_scene leaves out
