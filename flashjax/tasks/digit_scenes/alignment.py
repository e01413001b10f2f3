"""Alignment: how often pictures show what their captions ask for, attribute by attribute."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from flashjax.tasks.digit_scenes.captions import Wanted

ATTRIBUTES = ("count", "value", "colour", "place", "background")
MIDDLE = 32.0  # pixels: the middle of the canvas, along x and along y
LEGIBLE = 0.5  # of the reader's belief that a digit must have, of all ten; 98 % of real scenes pass
CENTRE_REACH = 9.0  # pixels from the middle, along x and along y, that still count as "center"


@dataclass(frozen=True)
class Found:
    """A digit seen in a picture: its class, colour name, and centre in pixels of the canvas.

    `belief` (0..1) is how likely the class is, of all ten.
    """

    value: int
    colour: str
    x: float
    y: float
    belief: float = 1.0


@dataclass(frozen=True)
class Reading:
    """What a picture shows: its digits, strongest first, and its background."""

    digits: tuple[Found, ...]
    background: str


def alignment(readings: Sequence[Reading], wanted: Sequence[Wanted]) -> dict[str, float]:
    """The share (0..1) of captions met as a whole ("whole") and in each of ATTRIBUTES.

    The n-th reading is judged by the n-th caption; raises ValueError if there are none or if
    their numbers differ.
    """
    if not wanted:
        raise ValueError("alignment: nothing to judge")
    verdicts = [judge(*pair) for pair in zip(readings, wanted, strict=True)]
    shares = {name: sum(v[name] for v in verdicts) / len(verdicts) for name in ATTRIBUTES}
    return {"whole": sum(all(v.values()) for v in verdicts) / len(verdicts), **shares}


def judge(reading: Reading, wanted: Wanted) -> dict[str, bool]:
    """Which of ATTRIBUTES one picture meets.

    The digits found are matched to those wanted in the order that meets the most, and value,
    colour and place are judged in that one order: a red three and a blue seven are no blue three
    and red seven. A picture with another number of digits meets none of the three. A caption that
    asks for nothing is met by one or two legible digits.
    """
    if not wanted.digits:
        return dict.fromkeys(ATTRIBUTES, is_scene(reading))
    background = reading.background == wanted.background
    if len(reading.digits) != len(wanted.digits):
        missed = dict.fromkeys(("count", "value", "colour", "place"), False)
        return {**missed, "background": background}
    best = max((_matched(order, wanted) for order in permutations(reading.digits)), key=_met)
    return {"count": True, **best, "background": background}


def is_scene(reading: Reading) -> bool:
    """Whether a picture shows one or two digits that can be read."""
    legible = all(digit.belief >= LEGIBLE for digit in reading.digits)
    return len(reading.digits) in (1, 2) and legible


def place_of(digit: Found) -> str:
    """Where one digit stands: "center" within CENTRE_REACH, else the side it is furthest off to."""
    right, down = digit.x - MIDDLE, digit.y - MIDDLE
    if max(abs(right), abs(down)) <= CENTRE_REACH:
        return "center"
    if abs(right) >= abs(down):
        return "right" if right > 0 else "left"
    return "bottom" if down > 0 else "top"


def relation_of(first: Found, second: Found) -> str:
    """Where the first digit stands from the second, along the axis that parts them more."""
    right, down = first.x - second.x, first.y - second.y
    if abs(right) >= abs(down):
        return "right" if right > 0 else "left"
    return "below" if down > 0 else "above"


def _matched(digits: tuple[Found, ...], wanted: Wanted) -> dict[str, bool]:
    pairs = list(zip(digits, wanted.digits, strict=True))
    place = place_of(digits[0]) if len(digits) == 1 else relation_of(*digits)
    return {
        "value": all(found.value == value for found, (value, _) in pairs),
        "colour": all(found.colour == colour for found, (_, colour) in pairs),
        "place": place == wanted.place,
    }


def _met(verdict: dict[str, bool]) -> int:
    return sum(verdict.values())
