"""Pictures as each network is used to them: resized on the host, as its own processor does it.

Letters: H W pixels. Every rule takes uint8 "H W 3" and gives float32 "side side 3".
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image

Pixels: TypeAlias = Callable[[np.ndarray, int], np.ndarray]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def clip_pixels(image: np.ndarray, side: int) -> np.ndarray:
    """The shorter edge made `side`, the centre cut out: transformers' `CLIPImageProcessor`."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    rows, columns = int(side * height / shorter), int(side * width / shorter)
    resized = _bicubic(image, rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    return _normalised(resized[top : top + side, left : left + side], CLIP_MEAN, CLIP_STD)


def dinov2_pixels(image: np.ndarray, side: int) -> np.ndarray:
    """The whole picture squeezed to a square, as FD-DINOv2 is defined.

    DINOv2's own processor would cut off an eighth on every side.
    Source: `DINOv2Encoder` of layer6ai-labs/dgm-eval (Stein et al. 2023, arXiv:2306.04675).
    """
    return _normalised(_bicubic(image, side, side), IMAGENET_MEAN, IMAGENET_STD)


def clean_pixels(image: np.ndarray, side: int) -> np.ndarray:
    """Bicubic with antialiasing, not rounded to 8 bits; in [-1, 1).

    Source: clean-fid (Parmar et al. 2021, arXiv:2104.11222).
    """
    channels = [
        Image.fromarray(image[:, :, channel].astype(np.float32)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    return _unit(np.stack([np.asarray(channel) for channel in channels], -1).clip(0, 255))


def tensorflow_pixels(image: np.ndarray, side: int) -> np.ndarray:
    """Bilinear without antialiasing, corners at corners, as the first FIDs had it; in [-1, 1).

    Source: TensorFlow 1's `resize_bilinear`, as torch-fidelity computes it.
    """
    rows, columns = (_neighbours(size, side) for size in image.shape[:2])
    low, high, part = rows
    values = image.astype(np.float32)
    values = values[low] + (values[high] - values[low]) * part[:, None, None]
    low, high, part = columns
    return _unit(values[:, low] + (values[:, high] - values[:, low]) * part[:, None])


def _neighbours(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every output pixel the input pixels before and after it, and how far it is between."""
    place = np.arange(outputs, dtype=np.float32) * np.float32(inputs / outputs)
    low = place.astype(int)
    return low, np.minimum(low + 1, inputs - 1), place - low.astype(np.float32)


def _bicubic(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    resized = Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _normalised(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    unit = image.astype(np.float32) / 255
    return (unit - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def _unit(image: np.ndarray) -> np.ndarray:
    """0..255 as FID's network takes it."""
    return ((image - 128) / 128).astype(np.float32)
