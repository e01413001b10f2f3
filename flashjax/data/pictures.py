"""Pictures of any kind as people see them: upright, in colour, eight bits, on white.

Letters: H W pixels.
"""

import contextlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flashjax.data.files import NAMELESS
from flashjax.data.samples import Unreadable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # what a file holds counts, not how it is called
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF; those that swap the sides
# What Pillow's readers raise for bytes that they did not expect, with OSError that has no number.
_BROKEN = (
    Image.DecompressionBombError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_ABSENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_UNREACHED = (TimeoutError, ConnectionError)
_NOTES = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")  # chunks of a PNG

log = logging.getLogger(__name__)
_said: set[str] = set()


def read_picture(open_file: Callable[[], BinaryIO], where: str) -> np.ndarray:
    """uint8 "H W 3". Raises Unreadable for what is not there, broken, or no picture.

    Rotated as its EXIF says; of an animation the first frame; what is transparent lies on white;
    16 bits are scaled to 8; CMYK becomes RGB as Pillow does it, without its colour profile.
    """
    with _opened(open_file, where) as (image, _):
        if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's two views
            _say_once("animated", f"{where} is animated: its first frame is taken")
        return np.array(_upright_rgb(image, where))


def read_size(open_file: Callable[[], BinaryIO], where: str) -> tuple[int, int]:
    """Height and width as `read_picture` gives them, from the header alone."""
    with _opened(open_file, where) as (image, file):
        width, height = image.size
        # Of a PNG, Pillow would decode all pixels to look for EXIF behind them.
        known = image.format != "PNG" or "exif" in image.info or _has_late_notes(file)
        exif = image.getexif() if known else Image.Image.getexif(image)
        turned = exif.get(ORIENTATION) in TURNED
    return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(
    open_file: Callable[[], BinaryIO], where: str
) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """A picture, its header read, and its file. Unreadable for what goes wrong with it within."""
    try:
        with warnings.catch_warnings(), open_file() as file:
            warnings.simplefilter("ignore")  # of what is odd, but can be read
            with Image.open(file, formats=FORMATS) as image:
                yield image, file
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise Unreadable(f"{where}: it is empty, broken or no picture ({kinds})") from error
    except _ABSENT as error:
        raise Unreadable(f"{where}: {_reason(error)}") from error
    except OSError as error:
        numbered = error.errno is not None and error.errno not in NAMELESS
        if numbered or isinstance(error, _UNREACHED):
            raise  # a disk or a network that fails: no picture is to blame
        raise Unreadable(f"{where}: {_reason(error)}") from error
    except _BROKEN as error:
        raise Unreadable(f"{where}: {_reason(error)}") from error


def _upright_rgb(image: Image.Image, where: str) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "I;16":
        _say_once("sixteen", f"{where} has 16 bits: they are scaled to 8")
        deep = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.rint(deep / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK":
        _say_once("cmyk", f"{where} is CMYK: it is converted to RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        _say_once("alpha", f"{where} is transparent: it is laid on white")
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _has_late_notes(file: BinaryIO) -> bool:
    """Whether a PNG has EXIF or texts behind its pixels."""
    place = file.tell()
    file.seek(8)
    behind = late = False
    while len(head := file.read(8)) == 8 and not late:
        size, kind = struct.unpack(">I4s", head)
        behind |= kind == b"IDAT"
        late = behind and kind in _NOTES
        file.seek(size + 4, io.SEEK_CUR)
    file.seek(place)
    return late


def _say_once(what: str, message: str) -> None:
    """Says the first of a kind: a folder may hold thousands."""
    if what not in _said:
        _said.add(what)
        log.info("%s, as are all like it", message)


def _reason(error: Any) -> str:
    """What an error says, on one line."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0]
