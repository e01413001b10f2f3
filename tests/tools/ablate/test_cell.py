"""Branches that are kept apart run where they were trained."""

import pytest
from ml_collections import ConfigDict

from flashjax.tools.ablate.cell import experts


@pytest.mark.parametrize(("units", "bound"), [("raw", 0.75), ("shifted", 0.5)])
def test_an_expert_is_asked_at_the_levels_that_it_was_trained_at(units, bound):
    """Of the levels 1, .9, .75, .5 the last two, or the last alone, are the lower half."""
    config = ConfigDict({"student": {"steps": 4}, "split": {"units": units}})
    branches = {"lo": (0.0, 500.0), "hi": (500.0, 1000.0)}
    bounds, order = experts(config, branches, 3.0)
    assert bounds == pytest.approx((bound,)) and order == [1, 0]
