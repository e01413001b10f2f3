"""Merging branches: the arithmetic, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.train.merge import merge
from flashjax.types import InputError


def test_a_merge_is_the_weighted_mean_leaf_by_leaf():
    low = {"a": jnp.array([1.0, 2.0]), "b": {"c": jnp.array(10.0)}}
    high = {"a": jnp.array([3.0, -2.0]), "b": {"c": jnp.array(20.0)}}
    merged = merge([low, high], [0.3, 0.7])
    np.testing.assert_allclose(merged["a"], [0.3 * 1 + 0.7 * 3, 0.3 * 2 - 0.7 * 2], rtol=1e-6)
    np.testing.assert_allclose(merged["b"]["c"], 17.0, rtol=1e-6)


def test_equal_branches_merge_to_themselves():
    tree = {"a": jnp.linspace(-1, 1, 7)}
    np.testing.assert_allclose(merge([tree, tree], [0.3, 0.7])["a"], tree["a"], rtol=1e-6)


@pytest.mark.parametrize("weights", [[0.3, 0.6], [1.0]])
def test_weights_that_do_not_sum_to_one_are_refused(weights):
    with pytest.raises(InputError, match="merge"):
        merge([{"a": jnp.ones(2)}] * 2, weights)
