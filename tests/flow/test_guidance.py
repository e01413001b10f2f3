"""Guidance: the formulas, one network call for both halves, and a third one only when asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.flow.guidance import SkipLayers, guided, skip_guided
from flashjax.flow.schedule import sampler_sigmas
from flashjax.flow.solvers import euler
from flashjax.types import Cond, InputError

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


def skipping(params, x, sigma, cond):
    """A model that says something else without some of its blocks."""
    return velocity(params, jnp.cos(x), sigma, cond)


def acting_steps(steps, skip):
    """The rule of the published samplers, step by step."""
    return [s for s in range(steps) if s > skip.start * steps and s < skip.end * steps]


@pytest.mark.parametrize(
    ("steps", "acting"), [(28, range(1, 6)), (50, range(1, 10)), (100, range(2, 20)), (4, ())]
)
def test_skip_guidance_acts_strictly_between_its_ends(steps, acting):
    skip, grid = SkipLayers(), sampler_sigmas(steps, 3.0)
    assert acting_steps(steps, skip) == list(acting)
    low, high = skip.between(grid)
    assert [s for s in range(steps) if low < grid[s] < high] == list(acting)


def test_skip_guidance_is_the_published_formula_in_its_steps_only():
    skip, grid = SkipLayers(scale=2.5, start=0.1, end=0.5, blocks=(1,)), sampler_sigmas(10, 3.0)
    teach = skip_guided(velocity, skipping, 4.0, skip=skip, sigmas=grid)
    field = lambda x, sigma: teach(0.3, x, sigma, COND, UNCOND)
    want = X
    for step in range(10):
        sigma = jnp.full((2,), grid[step])
        cond, uncond = (velocity(0.3, want, sigma, c) for c in (COND, UNCOND))
        out = uncond + 4.0 * (cond - uncond)
        if step > 0.1 * 10 and step < 0.5 * 10:
            out = out + 2.5 * (cond - skipping(0.3, want, sigma, COND))
        want = want + (grid[step + 1] - grid[step]) * out
    got = jax.jit(lambda x: euler(field, x, grid))(X)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_the_third_pass_is_paid_in_those_steps_only():
    sigmas, skip, grid = [], SkipLayers(start=0.25, end=0.75), sampler_sigmas(8, 3.0)

    def counting(params, x, sigma, cond):
        sigmas.append(float(sigma[0]))
        return skipping(params, x, sigma, cond)

    teach = skip_guided(velocity, counting, 4.0, skip=skip, sigmas=grid)
    with jax.disable_jit():
        euler(lambda x, sigma: teach(0.1, x, sigma, COND, UNCOND), X, grid)
    np.testing.assert_array_equal(np.float32(sigmas), grid[3:6])


@pytest.mark.parametrize(("start", "end"), [(0.2, 0.2), (-0.1, 0.2), (0.0, 1.1)])
def test_shares_of_no_steps_are_refused(start, end):
    with pytest.raises(InputError, match="0 <= start < end <= 1"):
        SkipLayers(start=start, end=end)
