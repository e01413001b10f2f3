"""Parameters that are there are taken as they are; gradients copy nothing; rounds of a scan."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from flashjax.models.layers import Dense, apply, parameter, scanned
from flashjax.types import Unconstrained, unconstrained

TRACED = []


def counted(key, shape, dtype):
    TRACED.append(shape)
    return jax.random.normal(key, shape, dtype)


class Scale(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, _=None):
        return x * parameter(self, "scale", counted, (self.width,)), None


def test_an_initialiser_is_traced_by_init_alone(key):
    params = Scale(3).init(key, jnp.ones(3))["params"]
    made = len(TRACED)
    assert made and params["scale"].dtype == jnp.float32
    got, _ = jax.jit(lambda params: apply(Scale(3), params, jnp.ones(3)))(params)
    assert jnp.array_equal(got, params["scale"]) and len(TRACED) == made


def test_a_parameter_of_a_scan_is_one_of_its_depth():
    model = scanned(Scale, 2)(3)
    got, _ = apply(model, {"scale": jnp.array([[1.0, 2, 3], [4, 5, 6]])}, jnp.ones(3))
    assert got.tolist() == [4.0, 10.0, 18.0]


def test_a_parameter_of_another_shape_or_none_is_refused():
    with pytest.raises(ScopeParamShapeError):
        apply(Scale(3), {"scale": jnp.ones(4)}, jnp.ones(3))
    with pytest.raises(ScopeParamNotFoundError):
        apply(Scale(3), {"other": jnp.ones(3)}, jnp.ones(3))


def transposed(constrain):
    """How many arrays of the size of tokens a CPU transposes for the gradient of a projection."""
    x, weights = jnp.ones((3, 5, 7)), {"kernel": jnp.ones((7, 11)), "bias": jnp.ones(11)}
    dense = Dense((11,), ("width",), constrain=constrain)
    loss = lambda params, x: jnp.sum(jnp.sin(apply(dense, params, x)))
    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(weights, x).compile().as_text()
    shapes = re.findall(r"= f32\[([\d,]+)\]\S* transpose\(", text)
    sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
    return sum(size in (x.size, 3 * 5 * 11) for size in sizes)


def test_a_gradient_on_a_cpu_transposes_no_tokens():
    class Split(Unconstrained):
        rows = False

    assert transposed(unconstrained) == 0 < transposed(Split())


@pytest.mark.parametrize("unroll", [2, 3, 8])
def test_a_round_of_a_scan_may_be_several_blocks(unroll):
    scale = {"scale": jnp.arange(15.0).reshape(5, 3)}

    def grad(unroll):
        model = scanned(Scale, 5, unroll=unroll)(3)
        return jax.grad(lambda params: jnp.sum(apply(model, params, jnp.ones(3))[0]))(scale)

    assert jnp.array_equal(grad(unroll)["scale"], grad(1)["scale"])
