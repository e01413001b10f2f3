"""Alignment judges every attribute, and binds value, colour and place to the same digit."""

import pytest

from flashjax.tasks.digit_scenes.alignment import (
    ATTRIBUTES,
    CENTRE_REACH,
    Found,
    Reading,
    alignment,
    judge,
    place_of,
)
from flashjax.tasks.digit_scenes.captions import parse_caption, wanted_of
from flashjax.tasks.digit_scenes.scenes import compose

LEFT, RIGHT = (17.0, 30.0), (47.0, 34.0)
PAIR = parse_caption("a red seven left of a blue three on white")
GOOD = Reading((Found(7, "red", *LEFT), Found(3, "blue", *RIGHT)), "white")


def missed(reading, wanted=PAIR):
    return [name for name, met in judge(reading, wanted).items() if not met]


def test_a_picture_that_shows_what_was_asked_misses_nothing_in_either_order():
    assert missed(GOOD) == []
    assert missed(Reading(GOOD.digits[::-1], "white")) == []


@pytest.mark.parametrize(
    ("digits", "background", "expected"),
    [
        ((Found(1, "red", *LEFT), Found(3, "blue", *RIGHT)), "white", ["value"]),
        ((Found(7, "pink", *LEFT), Found(3, "blue", *RIGHT)), "white", ["colour"]),
        ((Found(7, "red", *RIGHT), Found(3, "blue", *LEFT)), "white", ["place"]),
        ((Found(7, "red", 32, 17), Found(3, "blue", 32, 47)), "white", ["place"]),
        ((Found(7, "blue", *LEFT), Found(3, "red", *RIGHT)), "white", ["colour"]),
        (GOOD.digits, "gray", ["background"]),
        (GOOD.digits[:1], "white", ["count", "value", "colour", "place"]),
        ((*GOOD.digits, Found(1, "red", 32, 32)), "white", ["count", "value", "colour", "place"]),
        ((), "white", ["count", "value", "colour", "place"]),
    ],
)
def test_each_fault_is_charged_to_its_attribute(digits, background, expected):
    assert missed(Reading(digits, background)) == expected


@pytest.mark.parametrize(
    ("beliefs", "is_met"),
    [((), False), ((0.5,), True), ((0.49,), False), ((0.9, 0.3), False), ((0.9,) * 3, False)],
)
def test_a_caption_that_asks_for_nothing_is_met_by_one_or_two_digits_that_can_be_read(
    beliefs, is_met
):
    digits = tuple(Found(7, "red", *LEFT, belief) for belief in beliefs)
    found = judge(Reading(digits, "white"), parse_caption(" "))
    assert set(found.values()) == {is_met} and set(found) == set(ATTRIBUTES)


def test_shares_count_pictures():
    wrong_ground = Reading(GOOD.digits, "black")
    assert alignment([GOOD, wrong_ground, GOOD, Reading((), "white")], [PAIR] * 4) == {
        "whole": 0.5,
        "count": 0.75,
        "value": 0.75,
        "colour": 0.75,
        "place": 0.75,
        "background": 0.75,
    }


def test_place_of_tolerates_straying_up_to_its_bounds():
    def at(x, y):
        return place_of(Found(0, "red", 32 + x, 32 + y))

    reach = CENTRE_REACH
    assert at(reach, -reach) == "center" and at(reach + 0.1, 0) == "right"
    assert at(-15, 14) == "left" and at(-15, 16) == "bottom" and at(4, -15) == "top"


def test_every_real_scene_meets_its_own_caption_even_read_four_pixels_off():
    scenes = [compose(5, index, "train").scene for index in range(300)]
    for off in ((0, 0), (4, 0), (0, -4), (-3, 3)):
        readings = [
            Reading(
                tuple(Found(d.value, d.colour, d.x + off[0], d.y + off[1]) for d in s.digits),
                s.background,
            )
            for s in scenes
        ]
        shares = alignment(readings, [wanted_of(s) for s in scenes])
        assert shares == dict.fromkeys(("whole", *ATTRIBUTES), 1.0)


def test_unequal_numbers_and_none_are_refused():
    with pytest.raises(ValueError):
        alignment([GOOD], [PAIR, PAIR])
    with pytest.raises(ValueError, match="nothing"):
        alignment([], [])
