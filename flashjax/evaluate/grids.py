"""Picture grids, and PNG bytes that carry the prompt, seed and settings of what they show."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

GAP = 2  # pixels between pictures
GAP_SHADE = 255  # white, brighter than every background of the scenes
TEXT_SHARE, TEXT_LEAST, TEXT_PAD = 24, 11, 4  # of a picture's height; pixels


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


def labelled(images: np.ndarray, *, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """`grid` with a label at each row and over each column; pictures are "r c h w 3" in uint8."""
    height, width = images.shape[2:4]
    font = ImageFont.load_default(max(TEXT_LEAST, height // TEXT_SHARE))
    boxes = {text: font.getbbox(text) for text in (*rows, *columns)}
    line = TEXT_PAD + max(int(box[3]) for box in boxes.values()) + TEXT_PAD
    left = TEXT_PAD + max(int(boxes[text][2]) for text in rows) + TEXT_PAD if any(rows) else 0
    wide = max(width, *(int(boxes[text][2]) + TEXT_PAD for text in columns))
    sides = ((0, 0), (0, 0), (0, 0), ((wide - width) // 2, -(-(wide - width) // 2)), (0, 0))
    pictures = grid(np.pad(images, sides, constant_values=GAP_SHADE))
    page = np.pad(pictures, ((line, 0), (left, 0), (0, 0)), constant_values=GAP_SHADE)
    sheet = Image.fromarray(page)
    pen = ImageDraw.Draw(sheet)
    for column, text in enumerate(columns):
        centre = left + column * (wide + GAP) + wide // 2
        pen.text((centre, line // 2), text, fill=0, font=font, anchor="mm")
    for row, text in enumerate(rows):
        centre = line + row * (height + GAP) + height // 2
        pen.text((TEXT_PAD, centre), text, fill=0, font=font, anchor="lm")
    return np.asarray(sheet)


def parameters(prompt: str, negative: str, settings: Mapping[str, object]) -> str:
    """The text chunk "parameters" as AUTOMATIC1111's web UI writes it, and others read it.

    ComfyUI looks for the negative prompt's line even where it is empty. A value that its readers
    would cut at a comma or colon is quoted.
    """
    pairs = ((name, str(value)) for name, value in settings.items())
    told = [f"{name}: {json.dumps(v) if set(v) & set(',:') else v}" for name, v in pairs]
    return f"{prompt}\nNegative prompt: {negative}\n{', '.join(told)}"


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
