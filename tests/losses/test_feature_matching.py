"""Feature matching: the loss by hand, and where it is least."""

import jax
import numpy as np
import pytest

from flashjax.losses.feature_matching import feature_loss


def test_it_is_the_pseudo_huber_distance_of_means_over_tokens():
    tokens, real = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    want = np.mean([
        np.sqrt((tokens[t, b, :, d].mean() - real[t, b, :, d].mean()) ** 2 + 1e-6) - 1e-3
        for t in range(3) for b in range(4) for d in range(6)
    ])  # fmt: skip
    assert float(feature_loss(tokens, real)) == pytest.approx(want, rel=1e-4)


def test_other_tokens_of_the_same_mean_cost_nothing_and_pull_nobody():
    tokens = np.random.default_rng(1).normal(size=(1, 2, 4, 3)).astype(np.float32)
    loss, pull = jax.value_and_grad(feature_loss)(tokens, tokens[:, :, ::-1])
    assert abs(float(loss)) < 1e-9 and np.abs(pull).max() < 1e-4
