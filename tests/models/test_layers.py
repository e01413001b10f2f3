"""A parameter that is there is taken as it is; what is missing or of another shape is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from flashjax.models.layers import apply, parameter, scanned

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
