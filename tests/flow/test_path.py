"""The straight path: its identities, and the dial between shared and fresh noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.flow import path
from flashjax.flow.path import add_noise, along, matching_noise, to_noise, to_x0

SHAPE = (5, 2, 3, 4)
SIGMA = jnp.array([0.0, 0.2, 0.5, 0.9, 1.0])


@pytest.fixture
def ends(key):
    """Data and noise."""
    return tuple(jax.random.normal(k, SHAPE) for k in jax.random.split(key))


def test_the_path_leads_from_data_to_noise(ends):
    x = add_noise(*ends, SIGMA)
    np.testing.assert_array_equal(x[0], ends[0][0])
    np.testing.assert_array_equal(x[-1], ends[1][-1])
    np.testing.assert_allclose(x[2], (ends[0][2] + ends[1][2]) / 2, atol=1e-6)


def test_the_true_velocity_gives_back_both_ends(ends):
    x0, noise = ends
    x, velocity = add_noise(x0, noise, SIGMA), noise - x0
    np.testing.assert_allclose(to_x0(velocity, x, SIGMA), x0, atol=1e-6)
    np.testing.assert_allclose(to_noise(velocity, x, SIGMA), noise, atol=1e-6)


def test_the_path_through_predicted_ends_is_the_line_along_the_velocity(ends):
    """Any velocity, true or not: re-noising with its own noise moves the sample along it."""
    x, velocity = ends
    there = SIGMA[::-1]
    moved = add_noise(to_x0(velocity, x, SIGMA), to_noise(velocity, x, SIGMA), there)
    np.testing.assert_allclose(moved, x + along(there - SIGMA, x) * velocity, atol=1e-6)


def test_velocity_is_the_derivative_of_the_path(ends):
    x0, noise = ends
    _, slope = jax.jvp(lambda s: add_noise(x0, noise, s), (SIGMA,), (jnp.ones_like(SIGMA),))
    np.testing.assert_allclose(slope, noise - x0, atol=1e-6)


def test_eta_0_is_the_students_noise_and_eta_1_is_fresh(ends):
    student, fresh = ends
    np.testing.assert_array_equal(matching_noise(student, fresh, 0.0), student)
    np.testing.assert_allclose(matching_noise(student, fresh, 1.0), fresh, atol=1e-6)


def test_eta_may_differ_between_samples(ends):
    eta = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
    mixed = matching_noise(*ends, eta)
    for sample in range(5):
        single = matching_noise(*ends, float(eta[sample]))[sample]
        np.testing.assert_allclose(mixed[sample], single, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_the_dial_keeps_unit_variance(key, eta):
    student, fresh = (jax.random.normal(k, (200_000,)) for k in jax.random.split(key))
    assert float(jnp.var(matching_noise(student, fresh, eta))) == pytest.approx(1.0, abs=0.015)


def test_a_diffused_state_is_distributed_as_the_path_and_its_velocity_has_the_paths_mean(key):
    """Gaussian data: all means are linear, and the path's is known; `noise - x` would be off."""
    number, mean, std, low, high = 400_000, 0.7, 0.5, 0.4, 0.8
    keys = jax.random.split(key, 3)
    data, first, second = (jax.random.normal(k, (number,)) for k in keys)
    levels = [jnp.full(number, level) for level in (low, high)]
    state = path.add_noise(mean + std * data, first, levels[0])
    x = path.diffuse(state, *levels, second)
    variance = ((1 - high) * std) ** 2 + high**2
    assert np.mean(x) == pytest.approx((1 - high) * mean, abs=0.005)
    assert np.var(x) == pytest.approx(variance, abs=0.005)

    # E[noise - x0 | x] is a line of this slope through (E x, -mean).
    slope = (high - (1 - high) * std**2) / variance
    velocity = path.diffused_velocity(state, *levels, second)
    got = np.polyfit(x - (1 - high) * mean, velocity, 1)
    np.testing.assert_allclose(got, [slope, -mean], atol=0.02)
    naive = np.polyfit(x - (1 - high) * mean, second - state, 1)
    assert abs(naive[0] - slope) > 0.05


def test_a_velocity_to_the_clean_end_is_the_inverse_of_the_end_along_a_velocity(ends):
    x, velocity = ends
    sigma = SIGMA.at[0].set(0.01)
    x0 = to_x0(velocity, x, sigma)
    np.testing.assert_allclose(path.to_velocity(x0, x, sigma), velocity, rtol=1e-3, atol=1e-4)


def test_the_target_of_the_sample_is_biased_where_the_line_s_noise_is_no_fresh_one(key):
    """A linear student x0 = a noise, which is N(0, a^2): both means are lines through 0."""
    number, a, low, high = 400_000, 0.5, 0.4, 0.8
    noise, fresh = jax.random.normal(key, (2, number))
    levels = [jnp.full(number, level) for level in (low, high)]
    x0 = a * noise
    state = path.add_noise(x0, noise, levels[0])
    x = path.diffuse(state, *levels, fresh)
    got = np.polyfit(x, path.to_velocity(x0, x, levels[1]), 1)[0]

    kept, moved = (1 - high) / (1 - low), (1 - low) * a + low
    added = high**2 - (kept * low) ** 2
    variance = (kept * moved) ** 2 + added
    assert got == pytest.approx((1 - kept * moved * a / variance) / high, abs=0.01)

    # The path's own at `high`, of the data whose state at `low` has the variance of this one.
    data = (moved**2 - low**2) / (1 - low) ** 2
    own = (high - (1 - high) * data) / ((1 - high) ** 2 * data + high**2)
    unbiased = np.polyfit(x, path.diffused_velocity(state, *levels, fresh), 1)[0]
    assert unbiased == pytest.approx(own, abs=0.01)
    assert abs(got - own) > 0.05


def test_from_the_data_a_diffusion_is_the_path_itself(key):
    x, noise = jax.random.normal(key, (2, 5, 3))
    low, high = jnp.zeros(5), jnp.linspace(0.1, 0.9, 5)
    np.testing.assert_allclose(
        path.diffuse(x, low, high, noise), path.add_noise(x, noise, high), atol=1e-6
    )
    np.testing.assert_allclose(
        path.diffused_velocity(x, low, high, noise), noise - x, rtol=1e-5, atol=1e-6
    )
