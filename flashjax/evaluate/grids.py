"""Picture grids, and PNG bytes that carry the prompt, seed and settings of what they show."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

GAP = 2  # pixels between pictures
GAP_SHADE = 255  # white, brighter than every background of the scenes


def grid(images: np.ndarray) -> np.ndarray:
    """One uint8 picture "height width 3" of the pictures "r c h w 3", with thin gaps between them.

    Raises ValueError if the images are not uint8 of that shape.
    """
    if images.dtype != np.uint8 or images.ndim != 5 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"grid: {images.dtype} {images.shape}; need uint8 (r, c, h, w, 3)")
    rows, columns, height, width, _ = images.shape
    gaps = ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0))
    tiles = np.pad(images, gaps, constant_values=GAP_SHADE)
    picture = tiles.swapaxes(1, 2).reshape(rows * (height + GAP), columns * (width + GAP), 3)
    return picture[:-GAP, :-GAP]


def png_bytes(picture: np.ndarray, *, text: Mapping[str, str]) -> bytes:
    """A PNG of a uint8 picture "h w 3"; each entry of `text` becomes one of its text chunks."""
    chunks = PngInfo()
    for name, value in text.items():
        chunks.add_text(name, value)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", pnginfo=chunks, optimize=True)
    return buffer.getvalue()


def save_png(path: Path | str, picture: np.ndarray, *, text: Mapping[str, str]) -> None:
    """Write `png_bytes` to `path`, whose folder is made if it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(picture, text=text))
