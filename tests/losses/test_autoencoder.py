"""The autoencoder's losses against their formulas and torch's KL divergence."""

import jax
import numpy as np
import torch
from torch.distributions import Normal, kl_divergence

from flashjax.losses.autoencoder import kl_to_unit_gaussian, reconstruction_loss


def test_reconstruction_is_absolute_plus_squared_error(key):
    image, decoded = (np.asarray(jax.random.normal(k, (2, 3, 3, 3))) for k in jax.random.split(key))
    want = np.abs(decoded - image).mean() + ((decoded - image) ** 2).mean()
    np.testing.assert_allclose(reconstruction_loss(image, decoded), want, rtol=1e-6)
    assert reconstruction_loss(image, image) == 0


def test_kl_is_that_of_two_gaussians(key):
    mean, log_variance = (
        np.asarray(jax.random.normal(k, (2, 2, 2, 4))) for k in jax.random.split(key)
    )
    deviation = torch.tensor(np.exp(0.5 * log_variance))
    want = kl_divergence(Normal(torch.tensor(mean), deviation), Normal(0.0, 1.0)).mean()
    np.testing.assert_allclose(kl_to_unit_gaussian(mean, log_variance), want, rtol=1e-5)
    assert kl_to_unit_gaussian(np.zeros(3), np.zeros(3)) == 0
