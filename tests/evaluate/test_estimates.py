"""Intervals: against the closed form of a mean, and against draws of whole new sets."""

import numpy as np
import pytest

from flashjax.evaluate.estimates import Estimate, mean_of


def test_the_interval_of_a_mean_is_the_textbooks():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    found = mean_of(values)
    assert found.value == pytest.approx(values.mean())
    assert found.influence.mean() == pytest.approx(0, abs=1e-12)
    assert found.interval == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_an_interval_is_the_same_every_time_and_scales():
    found = mean_of(np.random.default_rng(1).exponential(size=50))
    assert found.interval == found.interval
    assert (found * 1000).interval == pytest.approx(1000 * found.interval)
    assert (found * 1000).value == pytest.approx(1000 * found.value)


def test_equal_samples_leave_no_doubt():
    assert mean_of(np.ones(9)).interval == 0
    assert Estimate(2.0, np.zeros(3)).interval == 0
