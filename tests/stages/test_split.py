"""Branches own steps by their ranges, in raw or shifted timesteps."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from flashjax.stages.split import branch_spans
from flashjax.types import InputError


def config(**split):
    ranges = {"lo": (0.0, 500.0), "hi": (500.0, 1000.0)}
    return ConfigDict({"student": {"steps": 4}, "split": {"branches": ranges} | split})


@pytest.mark.parametrize(("units", "hi"), [("raw", 2), ("shifted", 3)])
def test_branches_own_the_steps_of_their_range(units, hi):
    """Of the sigmas 1, .9, .75, .5 only the last lies in the lower half of shifted timesteps."""
    found = dict(zip(sorted(["lo", "hi"]), branch_spans(config(units=units), 3.0), strict=True))
    np.testing.assert_array_equal(found["hi"], [0, hi])
    np.testing.assert_array_equal(found["lo"], [hi, 4 - hi])


def test_ranges_are_raw_unless_it_is_said():
    np.testing.assert_array_equal(branch_spans(config(), 3.0), [[0, 2], [2, 2]])


def test_a_range_without_a_step_is_refused():
    wrong = config(branches={"none": (0.0, 100.0), "all": (100.0, 1000.0)})
    with pytest.raises(InputError, match=r"split\.branches\.none \(0\.0, 100\.0\] holds none"):
        branch_spans(wrong, 3.0)
