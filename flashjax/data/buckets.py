"""Aspect buckets: sizes of pictures of one area, and how a picture comes to one of them.

Letters: h w pixels of a bucket, H W of a picture.
"""

import functools
import math
from typing import Literal

import numpy as np
from PIL import Image

STEP = 64  # pixels: every side of a bucket is a multiple
WIDEST = 2.0  # ratio of its sides

Size = tuple[int, int]  # height, width


@functools.cache
def buckets(side: int) -> tuple[Size, ...]:
    """The sizes with an area of about `side` squared, from 1:2 to 2:1; the square is one."""
    found = {(side, side)}
    for width in range(STEP, 2 * side + 1, STEP):
        height = STEP * round(side * side / width / STEP)
        if height and max(height / width, width / height) <= WIDEST:
            found |= {(height, width), (width, height)}
    return tuple(sorted(found))


def bucket_of(size: Size, side: int, *, upscale: float, longest: float = math.inf) -> Size | None:
    """The bucket nearest in shape, of those whose sides a model has places for, up to `longest`.

    None for a picture that would be enlarged beyond `upscale`.
    """
    ratio = math.log(size[0] / size[1])
    fit = [bucket for bucket in buckets(side) if max(bucket) <= max(longest, side)]
    best = min(fit, key=lambda bucket: abs(math.log(bucket[0] / bucket[1]) - ratio))
    return best if _scale(size, best) <= upscale else None


def fitted(
    image: np.ndarray, bucket: Size, *, crop: Literal["centre", "random"], seed: tuple[int, ...]
) -> np.ndarray:
    """A picture uint8 "H W 3" resized to cover its bucket and cropped to it, "h w 3".

    One that has the bucket's size is left as it is. `seed` places a random crop.
    """
    if image.shape[:2] == bucket:
        return image
    scale = _scale(image.shape[:2], bucket)
    height, width = (
        max(round(length * scale), least)
        for length, least in zip(image.shape[:2], bucket, strict=True)
    )
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    spare = height - bucket[0], width - bucket[1]
    if crop == "random":
        random = np.random.default_rng(seed)
        top, left = (int(random.integers(length + 1)) for length in spare)
    else:
        top, left = (length // 2 for length in spare)
    return np.asarray(resized)[top : top + bucket[0], left : left + bucket[1]]


def _scale(size: Size, bucket: Size) -> float:
    """By how much a picture is enlarged so that it covers its bucket."""
    return max(bucket[0] / size[0], bucket[1] / size[1])
