"""Scenes: one or two handwritten digits in colour on a shaded ground, drawn from a seed.

Letters: x runs right and y runs down, both in pixels of the 64x64 canvas.
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flashjax.tasks.digit_scenes.captions import (
    BACKGROUNDS,
    COLOURS,
    DIGITS,
    Digit,
    Scene,
    Wanted,
    caption_of,
    parse_caption,
    vocabulary,
    wanted_of,
)
from flashjax.tasks.digit_scenes.digits import SPLITS, load_scans

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "DIGITS",
    "SIDE",
    "Digit",
    "Example",
    "Scene",
    "Wanted",
    "caption_of",
    "compose",
    "parse_caption",
    "vocabulary",
    "wanted_of",
]

SIDE = 64
ONE_DIGIT_SHARE = 0.35
_HALF = 20  # half the side of the patch that a digit is drawn in
_PAD = 2  # blank rows round a scan, so that ink fades to nothing at its border

# Where digits stand, in pixels; every centre then strays as `_reach` allows.
_ONE = {
    "left": (17, 32),
    "right": (47, 32),
    "top": (32, 17),
    "bottom": (32, 47),
    "center": (32, 32),
}
_TWO = {"left": ((17, 32), (47, 32)), "above": ((32, 16.5), (32, 47.5))}
_ALONG, _ACROSS = 1.5, 7.0  # jitter along and across the axis of the place

_GROUND = {
    "white": (226, 226, 222),
    "gray": (118, 120, 122),
    "black": (26, 26, 28),
    "brown": (96, 62, 36),
}
_BRIGHT = {
    "red": (248, 44, 40),
    "green": (60, 208, 70),
    "blue": (52, 96, 250),
    "yellow": (250, 218, 40),
    "pink": (255, 140, 205),
    "cyan": (70, 224, 236),
}
_DARK = {  # on white, so that light colours stay legible
    "red": (206, 22, 24),
    "green": (18, 140, 48),
    "blue": (34, 60, 214),
    "yellow": (206, 158, 0),
    "pink": (238, 84, 170),
    "cyan": (0, 164, 186),
}


@dataclass(frozen=True)
class Example:
    """A picture uint8 "64 64 3", one caption of it, and the scene both were made from."""

    image: np.ndarray
    caption: str
    scene: Scene


def compose(seed: int, index: int, split: str) -> Example:
    """The example number `index` of `split`: the same one for the same (seed, split, index)."""
    scans = _splines(split)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene = _draw_scene(rng)
    canvas = _ground(scene.background, rng)
    for digit in scene.digits:
        _paint(canvas, digit, scene.background, scans[digit.value], rng)
    image = (np.clip(canvas, 0, 255) + 0.5).astype(np.uint8)
    return Example(image=image, caption=caption_of(scene, rng), scene=scene)


@functools.cache
def _splines(split: str) -> tuple[np.ndarray, ...]:
    """Cubic spline coefficients of the padded scans of each class: ten arrays "n 12 12"."""
    images, labels = load_scans(split)
    padded = np.pad(images, ((0, 0), (_PAD, _PAD), (_PAD, _PAD)))
    filtered = np.stack([ndimage.spline_filter(scan, order=3, mode="mirror") for scan in padded])
    return tuple(filtered[labels == value].astype(np.float32) for value in range(len(DIGITS)))


def _draw_scene(rng: np.random.Generator) -> Scene:
    one = rng.random() < ONE_DIGIT_SHARE
    places = {place: (centre,) for place, centre in _ONE.items()} if one else _TWO
    place = str(rng.choice(tuple(places)))
    reach = _reach(place, one)
    digits = tuple(
        Digit(
            value=int(rng.integers(len(DIGITS))),
            colour=COLOURS[rng.integers(len(COLOURS))],
            x=centre[0] + rng.uniform(-reach[0], reach[0]),
            y=centre[1] + rng.uniform(-reach[1], reach[1]),
            size=rng.uniform(24, 32 if one else 28),
        )
        for centre in places[place]
    )
    return Scene(digits=digits, background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))], place=place)


def _reach(place: str, one: bool) -> tuple[float, float]:
    """How far a centre may stray in x and in y."""
    if place == "center":
        return 4.0, 4.0
    if place in ("left", "right"):
        return _ALONG, _ACROSS
    return _ACROSS, _ALONG


_GRID = 5  # knots of the texture along each side
_AXIS = np.linspace(-1, 1, SIDE, dtype=np.float32)
_TENT = np.maximum(
    0, 1 - np.abs(np.linspace(0, _GRID - 1, SIDE)[:, None] - np.arange(_GRID))
).astype(np.float32)


def _ground(name: str, rng: np.random.Generator) -> np.ndarray:
    """The background: its colour, brighter towards a random direction, under a soft texture."""
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(6, 24)
    grade = slope * (np.cos(angle) * _AXIS[None, :] + np.sin(angle) * _AXIS[:, None])
    knots = rng.normal(0, 6, (_GRID, _GRID)).astype(np.float32)
    shade = grade + _TENT @ knots @ _TENT.T
    tint = np.asarray(_GROUND[name], np.float32) + rng.normal(0, 3, 3).astype(np.float32)
    return tint + shade[:, :, None].astype(np.float32)


def _paint(
    canvas: np.ndarray, digit: Digit, background: str, scans: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw one real scan of the digit's class onto the canvas, in place."""
    scan = scans[rng.integers(len(scans))]
    left, top = int(digit.x) - _HALF, int(digit.y) - _HALF
    columns = np.arange(max(left, 0), min(left + 2 * _HALF, SIDE))
    rows = np.arange(max(top, 0), min(top + 2 * _HALF, SIDE))
    across, down = (columns - digit.x)[None, :], (rows - digit.y)[:, None]
    inverse = _inverse_affine(digit.size, rng)
    centre = _PAD + 3.5
    source = np.stack(
        [
            inverse[1, 0] * across + inverse[1, 1] * down + centre,
            inverse[0, 0] * across + inverse[0, 1] * down + centre,
        ]
    )
    ink = ndimage.map_coordinates(scan, source, np.float32, order=3, prefilter=False)
    alpha = np.clip((ink - 0.18) / 0.5, 0, 1)[:, :, None]  # steepened: a stroke, not a blur
    patch = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    patch += alpha * (_pigment(digit.colour, background, rng) - patch)


def _inverse_affine(size: float, rng: np.random.Generator) -> np.ndarray:
    """Pixels of the canvas -> pixels of the scan, "2 2" over (x, y): scale, slant, rotation."""
    height = size / 8
    width = height * rng.uniform(0.9, 1.15)
    slant, angle = rng.uniform(-0.25, 0.25), rng.uniform(-0.16, 0.16)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.linalg.inv(turn @ np.array([[width, slant * height], [0, height]]))


def _pigment(colour: str, background: str, rng: np.random.Generator) -> np.ndarray:
    shades = _DARK if background == "white" else _BRIGHT
    base = np.asarray(shades[colour], np.float32) * np.float32(rng.uniform(0.9, 1.05))
    return base + rng.normal(0, 5, 3).astype(np.float32)
