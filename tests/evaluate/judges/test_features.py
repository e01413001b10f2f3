"""Features: equal on any number of devices, computed once for a set, refused where broken."""

import jax
import numpy as np
import pytest

from flashjax.evaluate.judges.features import (
    CHUNK,
    Extractor,
    check_count,
    check_pictures,
    kept,
    references,
    set_digest,
)
from flashjax.types import InputError

WEIGHTS = {"kernel": np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)}


def pictures(count, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), np.uint8)


class Counted:
    """How pictures are prepared, and how many were."""

    def __init__(self):
        self.prepared = 0

    def __call__(self, image):
        self.prepared += 1
        return image.astype(np.float32) / 255


def extractor(prepare=None, *, weights=WEIGHTS, settings=""):
    forward = lambda params, pixels: pixels.reshape(len(pixels), -1) @ params["kernel"]
    return Extractor(forward, weights, prepare=prepare or Counted(), name="sum", settings=settings)


@pytest.mark.parametrize("count", [1, 3, 8, 8 * CHUNK + 1])
def test_features_are_those_of_every_picture_in_its_place(count):
    assert jax.device_count() == 8
    images = pictures(count)
    found = extractor()(images)
    expected = images.reshape(count, -1) / 255 @ WEIGHTS["kernel"]
    assert found.dtype == np.float32 and found.shape == (count, 5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_set_is_computed_once(tmp_path):
    count = Counted()
    first = kept(extractor(count), pictures(16), tmp_path)
    again = kept(extractor(count), pictures(16), tmp_path)
    np.testing.assert_array_equal(first, again)
    assert count.prepared == 16 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"images": pictures(16, seed=1)},
        {"images": pictures(16)[::-1]},
        {"weights": {"kernel": WEIGHTS["kernel"] + 1}},
        {"settings": "another resize"},
    ],
)
def test_other_pictures_weights_or_settings_are_computed_anew(tmp_path, other):
    images = other.pop("images", pictures(16))
    kept(extractor(), pictures(16), tmp_path)
    found = kept(extractor(**other), images, tmp_path)
    np.testing.assert_array_equal(found, extractor(**other)(images))
    assert len(list(tmp_path.iterdir())) == 2


def test_pictures_of_another_shape_are_another_set():
    assert set_digest(pictures(4)) != set_digest(pictures(4).reshape(4, 4, 1, 3))


@pytest.mark.parametrize("damage", [lambda old: old[:-9], lambda old: b"no features"])
def test_a_broken_file_is_no_features(tmp_path, damage):
    kept(extractor(), pictures(16), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path.name} is broken, delete it"):
        kept(extractor(), pictures(16), tmp_path)


def test_features_of_fewer_pictures_are_refused(tmp_path):
    kept(extractor(), pictures(16), tmp_path)
    (path,) = tmp_path.iterdir()
    np.save(path, np.load(path)[:9])
    with pytest.raises(InputError, match=r"has features \(9, 5\) of 16 pictures; delete it"):
        kept(extractor(), pictures(16), tmp_path)


def test_references_are_what_was_given():
    both = references(extractor(), real=pictures(5), teacher=pictures(3), folder=None)
    assert [(one.tag, one.words) for one in both] == [
        ("", "5 real pictures"),
        ("-T", "3 pictures of the teacher"),
    ]
    assert references(extractor(), real=None, teacher=None, folder=None) == ()
    with pytest.raises(InputError, match="sum needs 4 teacher's pictures, 3 given"):
        references(extractor(), real=None, teacher=pictures(3), folder=None, least=4)


def test_too_few_prompts_are_refused():
    check_count("fid", ["a", "b"], 2)
    with pytest.raises(InputError, match="fid needs 2 pictures, 1 are to be drawn"):
        check_count("fid", ["a"], 2)


@pytest.mark.parametrize("images", [pictures(2) / 255.0, pictures(2)[0], pictures(2)[..., :1]])
def test_what_is_no_picture_is_a_defect_of_the_caller(images):
    with pytest.raises(ValueError, match="not uint8"):
        check_pictures(images, ["a", "b"])
    with pytest.raises(ValueError, match="2 pictures of 1 prompts"):
        check_pictures(pictures(2), ["a"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_no_figures(value):
    broken = {"kernel": WEIGHTS["kernel"] * np.float32([1, 1, value, 1, 1])}
    with pytest.raises(InputError, match="features of sum hold NaN: its weights are broken"):
        extractor(weights=broken)(pictures(3))
