"""The autoencoder's losses against their formulas and torch's KL divergence."""

import jax
import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from flashjax.losses.autoencoder import gaussian_kl, reconstruction_loss


def test_reconstruction_is_absolute_plus_squared_error(key):
    image, decoded = (np.asarray(jax.random.normal(k, (2, 3, 3, 3))) for k in jax.random.split(key))
    want = np.abs(decoded - image).mean() + ((decoded - image) ** 2).mean()
    np.testing.assert_allclose(reconstruction_loss(image, decoded), want, rtol=1e-6)
    assert reconstruction_loss(image, image) == 0


@pytest.mark.parametrize("other", [None, (0.3, -1.2)])
def test_kl_is_that_of_two_gaussians(key, other):
    mean, log_variance = (
        np.asarray(jax.random.normal(k, (2, 2, 2, 4))) for k in jax.random.split(key)
    )
    deviation = torch.tensor(np.exp(0.5 * log_variance))
    away, wide = other or (0.0, 0.0)
    want = kl_divergence(
        Normal(torch.tensor(mean), deviation), Normal(away, float(np.exp(0.5 * wide)))
    ).mean()
    got = gaussian_kl(mean, log_variance, *(other or ()))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_kl_of_a_gaussian_from_itself_is_zero(key):
    mean = jax.random.normal(key, (3, 4))
    assert gaussian_kl(mean, -mean, mean, -mean) == 0
    assert gaussian_kl(np.zeros(3), np.zeros(3)) == 0
