"""What an evaluation draws and compares with: samples that no training saw."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flashjax.data.buckets import Size, fitted
from flashjax.data.samples import Sample, Samples, Unreadable
from flashjax.types import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unseen:
    """Captions with their real pictures, and as many other real pictures; uint8 "n H W 3" both.

    Samples without pictures have None for both. `more` are the captions that are not drawn.
    """

    captions: list[str]
    images: np.ndarray | None
    others: np.ndarray | None
    more: list[str]


def halves(samples: Samples, count: int, *, side: int) -> Unseen:
    """The first `count` samples to draw, all others to compare with. InputError for too few.

    Pictures come to squares of `side` pixels, the size that is drawn. A broken one is left out, and
    so are captions alone among pictures: half as many others will do, for by then all is trained.
    """
    found = list(_read(samples, (side, side)))
    pictured = [sample for sample in found if sample.image is not None]
    captions = [sample.caption for sample in pictured or found]
    if not captions:
        raise InputError(f"{samples.name} has no samples: raise data.validation")
    if not pictured:
        if len(captions) < count:
            raise InputError(f"{samples.name} has {len(captions)} captions, but {count} are drawn")
        return Unseen(captions[:count], None, None, captions[count:])
    if 2 * (len(captions) - count) < count:
        raise InputError(
            f"{samples.name} has {len(captions)} samples: {count} to draw and as many to compare "
            f"with are needed, or half as many where others are broken"
        )
    images = np.stack([sample.image for sample in pictured if sample.image is not None])
    return Unseen(captions[:count], images[:count], images[count:], captions[count:])


def pictures_of(samples: Samples, size: Size) -> np.ndarray:
    """All pictures that can be read, in this size, uint8 "n H W 3". InputError where none can."""
    images = [sample.image for sample in _read(samples, size) if sample.image is not None]
    if not images:
        raise InputError(f"{samples.name} has no pictures to compare with")
    return np.stack(images)


def _read(samples: Samples, size: Size) -> Iterator[Sample]:
    """All samples that can be read, their pictures resized to cover `size`, and cropped."""
    for index in range(len(samples)):
        try:
            image, caption = samples[index]
        except Unreadable as error:
            log.warning("%s: left out: %s", samples.name, error)
            continue
        if image is not None:
            image = fitted(image, size, crop="centre", seed=())
        yield Sample(image, caption)
