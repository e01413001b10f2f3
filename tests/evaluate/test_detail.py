"""Sharpness and diversity in pixels: scipy and loops over pairs are the oracles."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from flashjax.evaluate.detail import pixel_diversity, sharpness


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 7, 3), np.uint8)


def test_sharpness_is_the_deviation_of_scipys_laplacian(images):
    each = [ndimage.laplace(p.astype(float).mean(-1))[1:-1, 1:-1].std() for p in images]
    found = sharpness(images)
    assert found.value == pytest.approx(np.mean(each))
    np.testing.assert_allclose(found.influence, each - np.mean(each))


def test_a_blurred_picture_is_less_sharp(images):
    blurred = ndimage.gaussian_filter(images.astype(float), (0, 1, 1, 0)).astype(np.uint8)
    assert sharpness(blurred).value < 0.3 * sharpness(images).value


def test_diversity_is_the_mean_difference_within_prompts(images):
    prompts = ["a", "b", "a", "c", "b", "a"]
    apart = lambda i, j: np.abs(images[i].astype(float) - images[j]).mean()
    of_a = np.mean([apart(i, j) for i, j in itertools.combinations([0, 2, 5], 2)])
    found = pixel_diversity(images, prompts)
    assert found.value == pytest.approx((of_a + apart(1, 4)) / 2)
    assert len(found.influence) == 2
    assert pixel_diversity(images[:2], ["a", "b"]) is None
