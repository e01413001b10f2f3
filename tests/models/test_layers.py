"""Parameters that are there are taken as they are; gradients copy nothing; rounds of a scan."""

import dataclasses
import functools
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from flashjax.models.layers import Dense, apply, init, parameter, scanned
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.types import Cond, Unconstrained, unconstrained

TRACED = []


def counted(key, shape, dtype):
    TRACED.append(shape)
    return jax.random.normal(key, shape, dtype)


class Scale(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, _=None):
        return x * parameter(self, "scale", counted, (self.width,)), None


class Alone(nn.Module):
    """A network that looks whether another thread traces one meanwhile."""

    @nn.compact
    def __call__(self, x):
        INSIDE.append(1)
        time.sleep(0.02)
        together = len(INSIDE)
        INSIDE.pop()
        if together > 1:
            raise RuntimeError("two threads trace at a time")
        return Scale(3)(x)[0]


INSIDE: list[int] = []


def test_threads_that_trace_networks_take_turns(key):
    """Steps are compiled by threads, and Flax changes classes that others look at."""
    params = init(Alone(), key, jnp.ones(3))

    def work(number):
        if number % 2:
            return jax.eval_shape(functools.partial(init, Alone()), key, jnp.ones(3))
        return jax.eval_shape(lambda params: apply(Alone(), params, jnp.ones(3)), params)

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(work, range(8)))) == 8


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


@pytest.mark.parametrize("sums", [None, jnp.float32])
def test_gradients_of_weights_may_be_summed_in_a_dtype_of_their_own(sums, key):
    x = jax.random.normal(key, (2, 64, 8), jnp.bfloat16)
    params = {"kernel": jax.random.normal(key, (8, 3, 5)), "bias": jnp.ones((3, 5))}

    def found(dtype, gradients):
        dense = Dense((3, 5), (None, "width"), dtype=dtype, sums=sums, gradients=gradients)
        loss = lambda params, x: jnp.mean(jnp.sin(apply(dense, params, x).astype(jnp.float32)))
        grads, back = jax.grad(loss, argnums=(0, 1))(params, x.astype(dtype))
        return apply(dense, params, x.astype(dtype)), grads, back

    (y, plain, back), (same, apart, same_back) = (
        found(jnp.bfloat16, gradients) for gradients in (None, jnp.float32)
    )
    assert y.dtype == same.dtype and jnp.array_equal(y, same) and jnp.array_equal(back, same_back)
    for name in params:
        assert plain[name].dtype == apart[name].dtype == jnp.float32
        rounded = [g.astype(jnp.bfloat16).astype(jnp.float32) for g in (plain[name], apart[name])]
        assert not jnp.array_equal(rounded[1], apart[name])  # it was never in bfloat16
        if sums is None or name == "kernel":  # a bias is added to sums as wide as they are
            assert jnp.array_equal(rounded[0], plain[name])
        right = found(jnp.float32, None)[1][name]
        assert jnp.allclose(apart[name], right, rtol=2e-2, atol=2e-2 * jnp.abs(right).max())


def test_a_network_whose_gradients_are_wider_is_the_same_network(key):
    sizes = MMDiTConfig(3, 2, 1, 8, 16, 12, channels=4, head_width=8, dtype=jnp.bfloat16)
    draw = lambda *shape: jax.random.normal(key, shape)
    inputs = draw(2, 8, 8, 4), jnp.array([0.3, 0.8]), Cond(draw(2, 5, 16), draw(2, 12))
    params = jax.jit(MMDiT(sizes).init)(key, *inputs)["params"]
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params
    )

    def found(gradients):
        velocity = velocity_of(MMDiT(dataclasses.replace(sizes, gradients=gradients)))
        loss = lambda params: jnp.mean(velocity(params, *inputs) ** 2)
        return jax.jit(velocity)(params, *inputs), jax.jit(jax.grad(loss))(params)

    (y, plain), (same, apart) = found(None), found(jnp.float32)
    assert jnp.array_equal(y, same)
    for one, other in zip(*map(jax.tree.leaves, (plain, apart)), strict=True):
        assert jnp.allclose(one, other, rtol=0.05, atol=0.02 * jnp.abs(one).max())
