"""Pictures of any kind as people see them: upright, in colour, eight bits, on white.

Letters: H W pixels.
"""

import io
import logging
import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flashjax.data.samples import Unreadable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PIXELS = 2**28  # 16,384 squared: more is a mistake or an attack
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, UnidentifiedImageError)
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")

log = logging.getLogger(__name__)
_said: set[str] = set()


def read_picture(open_file: Callable[[], BinaryIO], where: str) -> np.ndarray:
    """uint8 "H W 3". Raises Unreadable for what is broken, or no picture.

    Rotated as its EXIF says; of an animation the first frame; what is transparent lies on white;
    16 bits are scaled to 8.
    """
    try:
        with open_file() as file, _open(file, where) as image:
            if getattr(image, "is_animated", False):
                _say_once("animated", f"{where} is animated: its first frame is taken")
            return np.array(_upright_rgb(image, where))
    except _BROKEN as error:
        raise _unreadable(where, error) from error


def read_size(open_file: Callable[[], BinaryIO], where: str) -> tuple[int, int]:
    """Height and width as `read_picture` gives them, from the header alone."""
    try:
        with open_file() as file, _open(file, where) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # orientations that swap the sides
    except _BROKEN as error:
        raise _unreadable(where, error) from error
    return (width, height) if turned else (height, width)


def _open(file: BinaryIO, where: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures: the limit is ours
        image = Image.open(io.BytesIO(file.read()))
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise ValueError(f"{image.size[0]} x {image.size[1]} pixels are too many")
    return image


def _upright_rgb(image: Image.Image, where: str) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BITS:
        _say_once("sixteen", f"{where} has 16 bits: they are scaled to 8")
        deep = np.asarray(image).astype(np.float64)
        # "I" holds 16 bits of a PNG, or 8 of other files: what it holds says which.
        scale = 257.0 if image.mode != "I" or deep.max(initial=0) > 255 else 1.0
        image = Image.fromarray(np.clip(np.rint(deep / scale), 0, 255).astype(np.uint8), "L")
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        _say_once(image.mode, f"{where} is {image.mode}: it is converted to RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        _say_once("alpha", f"{where} is transparent: it is laid on white")
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _say_once(what: str, message: str) -> None:
    """Says the first of a kind: a folder may hold thousands."""
    if what not in _said:
        _said.add(what)
        log.info("%s, as are all like it", message)


def _unreadable(where: str, error: Exception) -> Unreadable:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Unreadable(f"{where}: {reason}")
