"""Euler: exact where it must be, first order elsewhere, and the steps of diffusers' scheduler."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from flashjax.flow.schedule import sampler_sigmas
from flashjax.flow.solvers import euler


def test_euler_is_exact_where_velocity_is_constant_along_the_way(key):
    """On the straight path to one point x0 the velocity (x - x0) / sigma is linear in x."""
    x0, x = (jax.random.normal(k, (2, 3, 3, 4)) for k in jax.random.split(key))
    sigmas = jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])

    def velocity(x, sigma):
        return (x - x0) / sigma[:, None, None, None]

    np.testing.assert_allclose(euler(velocity, x, sigmas), x0, atol=1e-6)


def test_euler_converges_to_the_solution_at_first_order():
    """dx/dsigma = x from 1 to 0 divides by e."""
    x = jnp.ones((1, 1))
    coarse, fine = (
        abs(float(euler(lambda x, _: x, x, jnp.linspace(1.0, 0.0, steps + 1))[0, 0]) - np.exp(-1))
        for steps in (50, 100)
    )
    assert fine < 0.002 and 1.9 < coarse / fine < 2.1


def test_every_sample_may_have_its_own_grid():
    x = jnp.array([[1.0], [2.0]])
    grids = jnp.array([[1.0, 0.5], [0.8, 0.4], [0.0, 0.3]])
    together = euler(lambda x, sigma: x * sigma[:, None], x, grids)
    for sample in range(2):
        alone = euler(lambda x, sigma: x * sigma[:, None], x[sample : sample + 1], grids[:, sample])
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

    def field_of(x, sigma):
        return jnp.sin(3 * x) + sigma[:, None, None, None]

    got = jax.jit(lambda x: euler(field_of, x, sampler_sigmas(6, 3.0)))(x)
    np.testing.assert_allclose(got, want.numpy(), atol=2e-5)
