"""Samples: captions and pictures of any kind are read by the same few words."""

import numpy as np
import pytest

from flashjax.data.samples import Sample, Unreadable, captions_of, images_of
from flashjax.evaluate.unseen import halves
from flashjax.types import InputError


class Listed(list):
    """Samples that are a list."""

    name, digest = "listed", "0"


def picture(side: int = 4, shade: int = 0) -> np.ndarray:
    return np.full((side, side, 3), shade, np.uint8)


def test_captions_and_pictures_come_in_their_order():
    samples = Listed(Sample(picture(shade=n), str(n)) for n in range(3))
    assert captions_of(samples) == ["0", "1", "2"]
    assert images_of(samples)[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("odd", [Sample(None, "b"), Sample(picture(5), "b")])
def test_a_missing_picture_or_another_size_is_refused(odd):
    with pytest.raises(InputError, match="listed: pictures of one size"):
        images_of(Listed([Sample(picture(), "a"), odd]))


def test_captions_alone_are_drawn_and_compared_with_nothing():
    unseen = halves(Listed(Sample(None, str(n)) for n in range(3)), 2, side=4)
    assert unseen.captions == ["0", "1"] and unseen.images is None and unseen.others is None
    with pytest.raises(InputError, match="listed has 3 captions, but 4"):
        halves(Listed(Sample(None, str(n)) for n in range(3)), 4, side=4)


def test_pictures_of_many_shapes_are_compared_as_squares_and_broken_ones_are_left_out():
    class WithBroken(Listed):
        def __getitem__(self, index):
            if index == 1:
                raise Unreadable("1.png: broken")
            return super().__getitem__(index)

    shapes = ((8, 12), (4, 4), (12, 8), (8, 8), (4, 6), (16, 16))
    pictures = [np.full((*shape, 3), 10 * n, np.uint8) for n, shape in enumerate(shapes)]
    samples = [Sample(image, str(n)) for n, image in enumerate(pictures)]
    unseen = halves(WithBroken([*samples, Sample(None, "alone")]), 2, side=8)
    assert unseen.captions == ["0", "2"]
    assert unseen.images.shape == (2, 8, 8, 3) and unseen.others.shape == (3, 8, 8, 3)
    assert unseen.images[:, 0, 0, 0].tolist() == [0, 20]
    assert unseen.others[:, 0, 0, 0].tolist() == [30, 40, 50]
