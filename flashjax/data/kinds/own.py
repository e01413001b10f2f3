"""Samples of somebody's own code: what it gives is looked at, sample by sample.

Letters: H W pixels.
"""

from typing import Any

import numpy as np

from flashjax.data.samples import Sample, Samples
from flashjax.types import InputError, code_of, mistake

ASKED = ("name", "digest", "size", "__len__", "__getitem__")  # of `Samples`


def open_own(source: str) -> Samples:
    """What the function "package.module:name" gives. InputError where that is no `Samples`."""
    make = code_of(source, "data.source")
    if not callable(make):
        raise InputError(
            f"data.source: {source} is {make!r:.60}: give a function without arguments"
        )
    try:
        made = make()
    except Exception as error:
        raise mistake(error, source, "data.source") from error
    lost = [name for name in ASKED if not hasattr(made, name)]
    if lost or not isinstance(made.name, str) or not isinstance(made.digest, str):
        what = f"{source} gives a {type(made).__name__}"
        raise InputError(
            f"data.source: {what} without {', '.join(lost) or 'a name and a digest as texts'}: "
            "give flashjax.data.samples.Samples"
        )
    if not len(made):
        raise InputError(f"data.source: {source} gives no sample")
    return Checked(made)


class Checked:
    """The same samples. InputError for one that is no picture and caption, or of another size."""

    def __init__(self, samples: Samples) -> None:
        self._samples, self.name, self.digest = samples, samples.name, samples.digest

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int, /) -> Sample:
        image, caption = self._samples[index]
        where, size = f"{self.name}: sample {index}", self._samples.size(index)
        if not isinstance(caption, str):
            raise InputError(f"{where}: its caption is {caption!r:.40}, no text")
        if (image is None) != (size is None) or (image is not None and _is_no_picture(image)):
            found = _told(image)
            raise InputError(f"{where} is {found}, size {size}: give uint8 H W 3, or None and None")
        if image is not None and size is not None and image.shape[:2] != tuple(size):
            raise InputError(f"{where} is {image.shape[:2]} pixels, and its size says {size}")
        return Sample(image, caption)

    def size(self, index: int, /) -> tuple[int, int] | None:
        """Height and width, as the samples say it."""
        return self._samples.size(index)


def _is_no_picture(image: Any) -> bool:
    array = isinstance(image, np.ndarray)
    return not array or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3


def _told(image: Any) -> str:
    if isinstance(image, np.ndarray):
        return f"an array {image.dtype} {image.shape}"
    return f"a {type(image).__name__}"
