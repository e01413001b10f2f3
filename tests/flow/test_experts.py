"""Experts by noise level: each range is one's, its upper end included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.flow.experts import by_expert
from flashjax.flow.solvers import euler

velocity = lambda params, x, sigma, cond: params * x + sigma[:, None] * cond


def test_every_level_is_one_experts():
    x, cond = jnp.ones((2, 3)), jnp.float32(2.0)
    both = jax.jit(by_expert(velocity, (0.75, 0.3)))
    for sigma, owner in ((1.0, 0), (0.76, 0), (0.75, 1), (0.5, 1), (0.3, 2), (0.1, 2)):
        at = jnp.full(2, sigma)
        want = velocity((5.0, 7.0, 11.0)[owner], x, at, cond)
        np.testing.assert_allclose(both((5.0, 7.0, 11.0), x, at, cond), want)


def test_a_pair_takes_the_steps_of_a_roll_out_in_turn():
    x, cond, grid = jnp.ones((2, 3)), jnp.float32(0.5), jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])
    pair = by_expert(velocity, (0.75,))
    got = euler(lambda x, sigma: pair((0.2, -0.3), x, sigma, cond), x, grid)
    want = np.ones((2, 3))
    for k, own in enumerate((0.2, 0.2, -0.3, -0.3)):
        want = want + (grid[k + 1] - grid[k]) * (own * want + grid[k] * 0.5)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_set_too_few_is_a_mistake():
    with pytest.raises(ValueError, match="1 sets of parameters, 1 bounds"):
        by_expert(velocity, (0.5,))((1.0,), jnp.ones((1, 1)), jnp.ones(1), 0.0)
