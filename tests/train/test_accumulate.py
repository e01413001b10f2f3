"""Gradients in parts are the gradients of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax.parallel.hlo import collectives
from flashjax.parallel.mesh import make_mesh
from flashjax.train.accumulate import gradients
from flashjax.types import InputError

PARAMS = {"w": jnp.float32([0.3, -0.2, 0.5])}
BATCH = {"x": jnp.float32(np.random.default_rng(0).normal(size=(8, 3)))}


def loss(params, scale, batch, key):
    value = scale * jnp.mean(jnp.sin(batch["x"] @ params["w"]))
    return value, {"student/loss": value, "draw": jax.random.uniform(key)}


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_give_the_gradient_and_the_metrics_of_the_whole(parts, key):
    want, said = gradients(loss, 1)(PARAMS, 2.0, BATCH, key)
    got, told = jax.jit(gradients(loss, parts))(PARAMS, 2.0, BATCH, key)
    np.testing.assert_allclose(got["w"], want["w"], rtol=1e-5)
    np.testing.assert_allclose(told["student/loss"], said["student/loss"], rtol=1e-5)


def test_every_part_draws_its_own_random_numbers(key):
    _, one = gradients(loss, 1)(PARAMS, 2.0, BATCH, jax.random.fold_in(key, 0))
    _, two = gradients(loss, 2)(PARAMS, 2.0, BATCH, key)
    assert one["draw"] != two["draw"]


def test_no_sample_moves_to_another_device_to_be_in_a_part(key):
    mesh = make_mesh({"data": 4})
    batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
    text = jax.jit(gradients(loss, 2)).lower(PARAMS, 2.0, batch, key).compile().as_text()
    assert {c.kind for c in collectives(text, mesh)} == {"all-reduce"}


def test_a_batch_that_does_not_divide_is_an_error(key):
    with pytest.raises(InputError, match="8 samples does not divide into 3"):
        gradients(loss, 3)(PARAMS, 2.0, BATCH, key)
