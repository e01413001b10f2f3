"""Solvers: exact where they must be, their order elsewhere, and the steps of diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from flashjax.flow.schedule import sampler_sigmas
from flashjax.flow.solvers import dpmpp_2m, euler


def wavy(x, sigma):
    """A field that is linear in nothing."""
    return jnp.sin(3 * x) + sigma.reshape((-1,) + (1,) * (x.ndim - 1))


SOLVERS = pytest.mark.parametrize("solver", [euler, dpmpp_2m])


@SOLVERS
def test_a_solver_is_exact_where_velocity_is_constant_along_the_way(solver, key):
    """On the straight path to one point x0 the velocity (x - x0) / sigma is linear in x."""
    x0, x = (jax.random.normal(k, (2, 3, 3, 4)) for k in jax.random.split(key))
    sigmas = jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])

    def velocity(x, sigma):
        return (x - x0) / sigma[:, None, None, None]

    np.testing.assert_allclose(solver(velocity, x, sigmas), x0, atol=1e-6)


def test_euler_converges_to_the_solution_at_first_order():
    """dx/dsigma = x from 1 to 0 divides by e."""
    x = jnp.ones((1, 1))
    coarse, fine = (
        abs(float(euler(lambda x, _: x, x, jnp.linspace(1.0, 0.0, steps + 1))[0, 0]) - np.exp(-1))
        for steps in (50, 100)
    )
    assert fine < 0.002 and 1.9 < coarse / fine < 2.1


def gaussian_data(x, sigma):
    """The true velocity of data whose standard deviation is 1/2."""
    sigma = sigma[:, None]
    return x * (sigma - 0.25 * (1 - sigma)) / deviation(sigma) ** 2


def deviation(sigma):
    """The standard deviation at `sigma` on the way to noise."""
    return (0.25 * (1 - sigma) ** 2 + sigma**2) ** 0.5


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (dpmpp_2m, 2)])
def test_error_falls_with_the_solvers_order(solver, order):
    """A normal variable stays so many deviations from its mean along the flow."""

    def error(steps):
        sigmas = np.geomspace(1.0, 0.05, steps + 1, dtype=np.float32)
        end = jax.jit(lambda x: solver(gaussian_data, x, sigmas))(jnp.ones((1, 1)))
        return abs(float(end[0, 0]) - deviation(0.05))

    coarse, fine = error(24), error(48)
    assert fine < 0.02 and 0.8 * 2**order < coarse / fine < 1.2 * 2**order


@pytest.mark.parametrize("grid", [[1.0, 0.0], [1.0, 0.6, 0.0]])
def test_two_steps_that_end_in_data_are_eulers(grid):
    x, sigmas = jnp.array([[1.0], [-2.0]]), jnp.array(grid)
    np.testing.assert_allclose(dpmpp_2m(wavy, x, sigmas), euler(wavy, x, sigmas), atol=1e-6)


@pytest.mark.parametrize("steps", [4, 28])
def test_dpmpp_2m_takes_the_steps_of_diffusers(steps, key):
    """The same levels, followed by diffusers in other coordinates: x / sqrt(1 + sigma^2)."""
    x = jax.random.normal(key, (2, 4))
    sigmas = sampler_sigmas(steps, 3.0)
    scheduler = DPMSolverMultistepScheduler(prediction_type="sample")
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.from_numpy(sigmas)
    scheduler.set_begin_index(0)
    scale = (1 + scheduler.sigmas**2).sqrt()
    want = torch.tensor(np.asarray(x)) / scale[0]
    for sigma, unit, timestep in zip(sigmas[:-1], scale, scheduler.timesteps, strict=False):
        here = want * unit
        x0 = here - sigma * (torch.sin(3 * here) + sigma)
        want = scheduler.step(x0, timestep, want, return_dict=False)[0]

    got = jax.jit(lambda x: dpmpp_2m(wavy, x, sigmas))(x)
    np.testing.assert_allclose(got, want.numpy(), atol=2e-5)
    assert np.abs(got - euler(wavy, x, sigmas)).max() > 1e-3


@SOLVERS
def test_every_sample_may_have_its_own_grid(solver):
    x = jnp.array([[1.0], [2.0]])
    grids = jnp.array([[1.0, 0.5], [0.8, 0.4], [0.5, 0.35], [0.0, 0.3]])
    together = solver(lambda x, sigma: x * sigma[:, None], x, grids)
    for sample in range(2):
        one = x[sample : sample + 1]
        alone = solver(lambda x, sigma: x * sigma[:, None], one, grids[:, sample])
        np.testing.assert_allclose(together[sample], alone[0], rtol=1e-6)


def test_euler_takes_the_steps_of_diffusers(key):
    """The same field followed by the scheduler that the exported pipeline runs."""
    x = jax.random.normal(key, (2, 4, 4, 3))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(6)
    want = torch.tensor(np.asarray(x))
    for timestep in scheduler.timesteps:
        field = torch.sin(3 * want) + timestep / 1000
        want = scheduler.step(field, timestep, want, return_dict=False)[0]

    got = jax.jit(lambda x: euler(wavy, x, sampler_sigmas(6, 3.0)))(x)
    np.testing.assert_allclose(got, want.numpy(), atol=2e-5)
