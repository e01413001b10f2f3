"""Trajectory guidance: segments of straight lines, and the regression onto them."""

import jax
import jax.numpy as jnp
import numpy as np

from flashjax.losses.trajectory import segment_velocity, trajectory_loss


def test_a_segment_recovers_a_constant_velocity(key):
    start, velocity = (jax.random.normal(k, (3, 2, 2, 4)) for k in jax.random.split(key))
    sigma, next_sigma = jnp.array([1.0, 0.9, 0.5]), jnp.array([0.9, 0.75, 0.0])
    end = start + (next_sigma - sigma)[:, None, None, None] * velocity
    got = segment_velocity(start, end, sigma, next_sigma)
    np.testing.assert_allclose(got, velocity, atol=1e-5)


def test_the_loss_is_the_mean_square_per_sample(key):
    velocity, target = (
        np.asarray(jax.random.normal(k, (3, 2, 2, 4))) for k in jax.random.split(key)
    )
    want = ((velocity - target) ** 2).reshape(3, -1).mean(1)
    np.testing.assert_allclose(trajectory_loss(velocity, target), want, rtol=1e-5)
