"""The heads' losses against their formulas."""

import jax
import numpy as np
import torch

from flashjax.losses.adversarial import critic_loss, generator_loss


def test_losses_are_softplus_of_the_logits(key):
    real, fake = (np.asarray(3 * jax.random.normal(k, (2, 4, 3))) for k in jax.random.split(key))
    want = np.mean(np.log1p(np.exp(fake))) + np.mean(np.log1p(np.exp(-real)))
    np.testing.assert_allclose(critic_loss(real, fake), want, rtol=1e-6)
    np.testing.assert_allclose(generator_loss(fake), np.mean(np.log1p(np.exp(-fake))), rtol=1e-6)


def test_student_and_heads_pull_the_same_logit_apart(key):
    fake = jax.random.normal(key, (5,))
    assert np.all(jax.grad(generator_loss)(fake) < 0)
    assert np.all(jax.grad(critic_loss, argnums=1)(fake, fake) > 0)
    assert np.all(jax.grad(critic_loss, argnums=0)(fake, fake) < 0)


def test_large_logits_do_not_overflow():
    logits = np.array([1e4, -1e4], np.float32)
    assert np.isfinite(generator_loss(logits)) and np.isfinite(critic_loss(logits, logits))


def test_the_hinge_is_torchs_margin_at_one(key):
    real, fake = (np.asarray(3 * jax.random.normal(k, (2, 4, 3))) for k in jax.random.split(key))
    hinge = lambda x: torch.clamp(1.0 + torch.tensor(x), min=0.0).mean().item()
    np.testing.assert_allclose(
        critic_loss(real, fake, "hinge"), hinge(fake) + hinge(-real), rtol=1e-6
    )
    np.testing.assert_allclose(generator_loss(fake, "hinge"), -np.mean(fake), rtol=1e-6)
