"""Buckets have one area, pictures cover them, and nothing is enlarged beyond what was allowed."""

import numpy as np
import pytest
from PIL import Image

from flashjax.data.buckets import bucket_of, buckets, fitted


@pytest.mark.parametrize("side", [64, 192, 512, 1024])
def test_buckets_are_multiples_of_64_of_one_area_between_1_to_2_and_2_to_1(side):
    found = buckets(side)
    assert (side, side) in found
    for height, width in found:
        assert height % 64 == width % 64 == 0
        assert 0.5 <= height / width <= 2
        assert 0.75 <= height * width / side**2 <= 1.3
        assert (width, height) in found


def test_a_picture_goes_to_the_bucket_of_its_shape_or_nowhere():
    assert bucket_of((1024, 1024), 1024, upscale=1.0) == (1024, 1024)
    assert bucket_of((3000, 1500), 1024, upscale=1.0) == (1408, 768)
    height, width = bucket_of((1080, 1920), 1024, upscale=1.25)
    assert abs(width / height - 16 / 9) < 0.1
    assert bucket_of((820, 820), 1024, upscale=1.25) == (1024, 1024)
    assert bucket_of((818, 818), 1024, upscale=1.25) is None
    assert bucket_of((20, 20), 64, upscale=1.25) is None


def test_a_picture_of_the_buckets_size_is_left_as_it_is():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert fitted(image, (64, 64), crop="random", seed=(0, 0)) is image


def test_the_centre_of_a_picture_is_kept_and_a_random_crop_lies_within_it():
    image = np.zeros((64, 200, 3), np.uint8)
    image[:, :, 0] = np.arange(200)
    np.testing.assert_array_equal(fitted(image, (64, 64), crop="centre", seed=()), image[:, 68:132])
    starts = {int(fitted(image, (64, 64), crop="random", seed=(0, n))[0, 0, 0]) for n in range(40)}
    assert len(starts) > 20 and min(starts) >= 0 and max(starts) <= 136
    again = fitted(image, (64, 64), crop="random", seed=(0, 3))
    np.testing.assert_array_equal(again, fitted(image, (64, 64), crop="random", seed=(0, 3)))


def test_resizing_is_pillows_antialiased_one():
    image = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    want = Image.fromarray(image).resize((64, 64), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(fitted(image, (64, 64), crop="centre", seed=()), np.asarray(want))


def test_no_side_is_longer_than_the_model_has_places_for():
    assert bucket_of((256, 512), 256, upscale=1.25) == (192, 384)
    assert bucket_of((256, 512), 256, upscale=1.25, longest=256) == (256, 256)
    assert bucket_of((256, 256), 256, upscale=1.25, longest=128) == (256, 256)
