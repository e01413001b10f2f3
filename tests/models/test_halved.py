"""The vector that tells a student of halved steps: what it does to the network, and where it is."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flashjax.models.halved import HALF, told, with_half
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.parallel.layout import ROLES
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import param_shardings
from flashjax.types import Cond

TINY = MMDiT(MMDiTConfig(depth=2, heads=1, dual=1, position_size=4, text_width=8, pooled_width=6))
X, SIGMA = jnp.ones((2, 4, 4, 16)), jnp.array([0.5, 1.0])
COND = Cond(text=jnp.ones((2, 3, 8)), pooled=jnp.ones((2, 6)))


@pytest.fixture(scope="module")
def params(random_params):
    shapes = jax.eval_shape(TINY.init, jax.random.key(0), X, SIGMA, COND)["params"]
    return random_params(shapes, std=0.3)


@pytest.fixture(scope="module")
def moved(params):
    """A student whose vector is no longer zero."""
    width = len(params["time_2"]["bias"])
    return params | {HALF: {"bias": jax.random.normal(jax.random.key(1), (width,))}}


def same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_folded_vector_is_one_that_is_added_to_what_modulates_every_block(moved):
    def adds(call, args, kwargs, context):
        found = call(*args, **kwargs)
        return found + moved[HALF]["bias"] if context.method_name == "embed_condition" else found

    own = told(moved, halved=False)
    velocity = jax.jit(velocity_of(TINY))
    got = velocity(told(moved, halved=True), X, SIGMA, COND)
    with nn.intercept_methods(adds):
        want = velocity_of(TINY)(own, X, SIGMA, COND)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert np.abs(got - velocity(own, X, SIGMA, COND)).max() > 0.01


@pytest.mark.parametrize("halved", [False, True, jnp.array(False), jnp.array(True)])
def test_at_zero_the_vector_changes_nothing_and_is_no_part_of_the_network(params, halved):
    same(told(with_half(params), halved), params)
    same(told(params, halved), params)


def test_a_vector_that_was_trained_is_kept(moved):
    same(with_half(moved), moved)
    same(told(moved, jnp.array(False)), told(moved, halved=False))


def test_shapes_are_told_too_and_every_layout_has_a_place_for_the_vector(params):
    shapes = jax.eval_shape(with_half, params)
    assert jax.tree.structure(told(shapes, halved=False)) == jax.tree.structure(params)
    found = param_shardings(shapes, ROLES["student"], make_mesh({"data": 4, "fsdp": 2}))
    assert found[HALF]["bias"].spec == PartitionSpec()
