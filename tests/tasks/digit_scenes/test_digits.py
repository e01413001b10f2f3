"""The scans are all there, once each, and no scan is in both splits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from flashjax.tasks.digit_scenes.digits import load_scans
from flashjax.types import InputError


def rows(images: np.ndarray) -> set[bytes]:
    return {scan.tobytes() for scan in images}


def test_the_splits_are_disjoint_and_together_every_scan():
    train, validation = rows(load_scans("train")[0]), rows(load_scans("validation")[0])
    every = rows((load_digits().images / 16).astype(np.float32))
    assert not train & validation
    assert train | validation == every and len(every) == 1797


def test_every_scan_keeps_its_class():
    source = load_digits()
    truth = {
        (scan / 16).astype(np.float32).tobytes(): label
        for scan, label in zip(source.images, source.target, strict=True)
    }
    for split in ("train", "validation"):
        images, labels = load_scans(split)
        assert all(truth[scan.tobytes()] == y for scan, y in zip(images, labels, strict=True))
        assert set(labels) == set(range(10))


def test_an_unknown_split_is_an_input_error():
    with pytest.raises(InputError, match="no split 'test'"):
        load_scans("test")
