"""Captions: what a scene is called, in several phrasings, and the way back from words.

Two digits are always held in reading order, so a relation is "left" or "above"; the captions also
use the mirrored relations, and `parse_caption` undoes the mirroring.
"""

import functools
import re
from dataclasses import dataclass

import numpy as np

from flashjax.types import InputError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow", "pink", "cyan")
BACKGROUNDS = ("white", "gray", "black", "brown")
PLACES = ("left", "right", "top", "bottom", "center")
RELATIONS = ("left", "right", "above", "below")

_MIRRORED = {"left": "right", "right": "left", "above": "below", "below": "above"}
_AT = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
}
_OF = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_SIDES = {
    "left": ("left", "right"),
    "right": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}
_ONE = (
    "a {a} {at} on {ground}",
    "on {ground} a {a} {at}",
    "{a} {at} {ground} background",
    "{ground} background with a {a} {at}",
)
_TWO = (
    "a {a} {of} a {b} on {ground}",
    "on {ground} a {a} {of} a {b}",
    "{a} {of} {b} {ground} background",
    "{a} {of} {b} on {ground}",
    "{ground} background with {a} {of} {b}",
    "{a} {here} and {b} {there} on {ground}",
)


@dataclass(frozen=True)
class Digit:
    """One digit: its class, colour name, centre (x, y) and height, in pixels of the canvas."""

    value: int
    colour: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `place` is a place for one digit, and for two the relation of the
    first to the second: "left" or "above"."""

    digits: tuple[Digit, ...]
    background: str
    place: str


@dataclass(frozen=True)
class Wanted:
    """What a caption asks for: (class, colour) of each digit, and as in Scene place and ground.

    Without digits it asks for nothing but a scene.
    """

    digits: tuple[tuple[int, str], ...]
    place: str
    background: str


def wanted_of(scene: Scene) -> Wanted:
    """The attributes of a scene that its captions name."""
    digits = tuple((digit.value, digit.colour) for digit in scene.digits)
    return Wanted(digits=digits, place=scene.place, background=scene.background)


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """One caption of the scene, of at most ten lower-case words, its phrasing drawn from `rng`."""
    wanted = wanted_of(scene)
    if len(wanted.digits) == 2 and rng.random() < 0.5:
        wanted = _mirror(wanted)
    templates = _ONE if len(wanted.digits) == 1 else _TWO
    return _fill(templates[rng.integers(len(templates))], wanted)


def parse_caption(caption: str) -> Wanted:
    """What a caption asks for: the inverse of `caption_of` for every phrasing.

    An empty one asks for any scene. Raises InputError for words that are no caption of a scene.
    """
    if not caption.strip():
        return Wanted(digits=(), place="", background="")
    for pattern, place in _patterns():
        match = pattern.fullmatch(caption.strip())
        if match:
            return _wanted(match.groupdict(), place)
    raise InputError(
        f"caption {caption!r}: cannot be read; write it like 'a red seven left of a blue three "
        "on white' or 'a red seven at the top on white'"
    )


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Every word that captions use, sorted."""
    phrases = (*_ONE, *_TWO, *_AT.values(), *_OF.values(), *sum(_SIDES.values(), ()))
    fixed = re.sub(r"\{\w+\}", " ", " ".join(phrases)).split()
    return tuple(sorted({*DIGITS, *COLOURS, *BACKGROUNDS, *fixed}))


def _mirror(wanted: Wanted) -> Wanted:
    return Wanted(
        digits=wanted.digits[::-1], place=_MIRRORED[wanted.place], background=wanted.background
    )


def _fill(template: str, wanted: Wanted) -> str:
    names = [f"{colour} {DIGITS[value]}" for value, colour in wanted.digits]
    fields = {"a": names[0], "b": names[-1], "ground": wanted.background}
    return template.format(**fields, **_place_words(wanted.place, len(names)))


def _place_words(place: str, count: int) -> dict[str, str]:
    """The words that tell a place in a template of `count` digits."""
    if count == 1:
        return {"at": _AT[place]}
    here, there = _SIDES[place]
    return {"of": _OF[place], "here": here, "there": there}


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Every template at every place as a regular expression, with that place."""
    digit = "(?P<{0}_colour>" + "|".join(COLOURS) + ") (?P<{0}_value>" + "|".join(DIGITS) + ")"
    fields = {
        "a": digit.format("a"),
        "b": digit.format("b"),
        "ground": "(?P<ground>" + "|".join(BACKGROUNDS) + ")",
    }
    return tuple(
        (re.compile(template.format(**fields, **_place_words(place, count))), place)
        for count, templates, places in ((1, _ONE, PLACES), (2, _TWO, RELATIONS))
        for template in templates
        for place in places
    )


def _wanted(fields: dict[str, str], place: str) -> Wanted:
    digits = tuple(
        (DIGITS.index(fields[f"{name}_value"]), fields[f"{name}_colour"])
        for name in ("a", "b")
        if f"{name}_value" in fields
    )
    wanted = Wanted(digits=digits, place=place, background=fields["ground"])
    return _mirror(wanted) if place in ("right", "below") and len(digits) == 2 else wanted
