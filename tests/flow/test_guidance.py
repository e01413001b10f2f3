"""Classifier-free guidance: the formula, and one network call for both halves."""

import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.flow.guidance import guided
from flashjax.types import Cond

X = jnp.linspace(-1.0, 1.0, 6).reshape(2, 1, 1, 3)
SIGMA = jnp.array([0.3, 0.8])
COND = Cond(text=jnp.ones((2, 1, 1)), pooled=jnp.array([[2.0], [5.0]]))
UNCOND = Cond(text=jnp.zeros((2, 1, 1)), pooled=jnp.array([[1.0], [-1.0]]))


def velocity(params, x, sigma, cond):
    gain = sigma * cond.pooled[:, 0] + cond.text[:, 0, 0]
    return params * jnp.sin(x) * gain[:, None, None, None]


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.5])
def test_guidance_extrapolates_from_the_empty_caption(scale):
    got = guided(velocity, scale)(2.0, X, SIGMA, COND, UNCOND)
    with_text, without = (velocity(2.0, X, SIGMA, c) for c in (COND, UNCOND))
    np.testing.assert_allclose(got, (1 - scale) * without + scale * with_text, atol=1e-5)


def test_both_halves_are_one_batch():
    sizes = []

    def counting(params, x, sigma, cond):
        sizes.append((len(x), len(sigma), len(cond.text), len(cond.pooled)))
        return velocity(params, x, sigma, cond)

    guided(counting, 2.0)(1.0, X, SIGMA, COND, UNCOND)
    assert sizes == [(4, 4, 4, 4)]
