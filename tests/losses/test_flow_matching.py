"""Flow matching against its formula."""

import jax
import numpy as np

from flashjax.losses.flow_matching import flow_matching_loss


def test_the_target_is_noise_minus_data_per_sample(key):
    velocity, x0, noise = (
        np.asarray(jax.random.normal(k, (3, 2, 2, 4))) for k in jax.random.split(key, 3)
    )
    want = ((velocity - (noise - x0)) ** 2).reshape(3, -1).mean(1)
    np.testing.assert_allclose(flow_matching_loss(velocity, x0, noise), want, rtol=1e-5)
    np.testing.assert_array_equal(flow_matching_loss(noise - x0, x0, noise), np.zeros(3))
