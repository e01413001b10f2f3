"""`Samples`: the data of a run, whatever keeps it. A seam: stages know no more of data than this.

Letters: n samples, H W pixels.
"""

from typing import NamedTuple, Protocol

import numpy as np

from flashjax.types import InputError


class Sample(NamedTuple):
    """A picture uint8 "H W 3", or None where there is a caption alone."""

    image: np.ndarray | None
    caption: str


class Unreadable(Exception):
    """A sample that is there but cannot be read: which one, and why. It is skipped and listed."""


class Samples(Protocol):
    """Captions, with or without their pictures, in an order that never changes.

    `name` says what they are in manifests and messages; `digest` changes where a sample does. A
    sample that is broken raises Unreadable when it is asked for.
    """

    @property
    def name(self) -> str:
        """What they are, in manifests and messages."""

    @property
    def digest(self) -> str:
        """Another text wherever a sample is another."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...

    def size(self, index: int, /) -> tuple[int, int] | None:
        """Height and width of a picture, known without decoding it; None where there is none."""


def captions_of(samples: Samples) -> list[str]:
    """All captions."""
    return [samples[index].caption for index in range(len(samples))]


def images_of(samples: Samples) -> np.ndarray:
    """All pictures, uint8 "n H W 3". InputError where one is missing or of another size."""
    found = [samples[index].image for index in range(len(samples))]
    images = [image for image in found if image is not None]
    if len(images) < len(found) or len({image.shape for image in images}) != 1:
        raise InputError(f"{samples.name}: pictures of one size are needed for all captions")
    return np.stack(images)
