"""What an evaluation draws and compares with: samples that no training saw."""

from dataclasses import dataclass

import numpy as np

from flashjax.data.samples import Samples, captions_of, images_of
from flashjax.types import InputError


@dataclass(frozen=True)
class Unseen:
    """Captions with their real pictures, and as many other real pictures; uint8 "n H W 3" both.

    Samples without pictures have None for both.
    """

    captions: list[str]
    images: np.ndarray | None
    others: np.ndarray | None


def halves(samples: Samples, count: int) -> Unseen:
    """The first `count` samples to draw, all others to compare with. InputError for too few."""
    if not len(samples):
        raise InputError(f"{samples.name} has no samples: raise data.validation")
    captions = captions_of(samples)
    if samples[0].image is None:
        if len(captions) < count:
            raise InputError(f"{samples.name} has {len(captions)} captions, but {count} are drawn")
        return Unseen(captions[:count], None, None)
    if len(captions) < 2 * count:
        raise InputError(
            f"{samples.name} has {len(captions)} samples: {count} to draw and as many to compare "
            f"with are needed"
        )
    images = images_of(samples)
    return Unseen(captions[:count], images[:count], images[count:])
