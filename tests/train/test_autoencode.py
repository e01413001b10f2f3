"""The autoencoder's steps: their figures, and that they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flashjax.models.vae import VAE, VAEConfig
from flashjax.train.autoencode import make_autoencoder_step, make_slim_step
from flashjax.train.state import Descent, init_state

CONFIG = VAEConfig(channels=(4,), layers=1, groups=2, latent_channels=2)
WHOLE = VAEConfig(channels=(8,), layers=1, groups=2, latent_channels=2)


def test_the_figures_are_those_of_the_sampled_latents_and_fall(key):
    model, tx = VAE(CONFIG), Descent(optax.adam(0.01))
    images = jnp.tanh(jax.random.normal(key, (2, 4, 4, 3)))
    params = jax.jit(model.init)(key, images)["params"]
    step = jax.jit(make_autoencoder_step(CONFIG, tx, kl_weight=1e-3))

    @jax.jit
    def figures(params):
        variables = {"params": params}
        mean, log_variance = model.apply(variables, images, method="moments")
        noise = jax.random.normal(jax.random.fold_in(key, 0), mean.shape)
        raw = mean + jnp.sqrt(jnp.exp(log_variance)) * noise
        error = model.apply(variables, raw, method="decode_raw") - images
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1 - log_variance)
        # Peak to peak the images span 2.
        return (
            jnp.mean(jnp.abs(error) + error**2),
            kl,
            20 * jnp.log10(2 / jnp.sqrt(jnp.mean(error**2))),
        )

    state, first = step(init_state(params, tx), images, key)
    for name, want in zip(("reconstruction", "kl", "psnr_db"), figures(params), strict=True):
        np.testing.assert_allclose(first[f"vae/{name}"], want, rtol=1e-4)
    for _ in range(60):
        state, last = step(state, images, key)
    assert last["vae/reconstruction"] < 0.8 * first["vae/reconstruction"]
    assert state.step == 61


def test_a_slim_autoencoder_learns_to_speak_the_latents_of_the_whole_one(key, random_params):
    model, whole, tx = VAE(CONFIG), VAE(WHOLE), Descent(optax.adam(0.01))
    images = jnp.tanh(jax.random.normal(key, (2, 4, 4, 3)))
    params = jax.jit(model.init)(key, images)["params"]
    frozen = random_params(jax.eval_shape(whole.init, key, images)["params"])
    step = jax.jit(make_slim_step(CONFIG, WHOLE, tx, kl_weight=1.0))

    @jax.jit
    def figures(params):
        said, said_log = whole.apply({"params": frozen}, images, method="moments")
        mean, log_variance = model.apply({"params": params}, images, method="moments")
        noise = jax.random.normal(jax.random.fold_in(key, 0), said.shape)
        raw = said + jnp.exp(said_log / 2) * noise
        error = model.apply({"params": params}, raw, method="decode_raw") - images
        squared = (jnp.exp(said_log) + (said - mean) ** 2) / jnp.exp(log_variance)
        kl = 0.5 * jnp.mean(log_variance - said_log + squared - 1)
        return jnp.mean(jnp.abs(error) + error**2), kl

    def distance(params):
        said = whole.apply({"params": frozen}, images, method="moments")[0]
        return jnp.std(model.apply({"params": params}, images, method="moments")[0] - said)

    state, first = step(init_state(params, tx), frozen, images, key)
    for name, want in zip(("reconstruction", "kl"), figures(params), strict=True):
        np.testing.assert_allclose(first[f"vae/{name}"], want, rtol=1e-4)
    for _ in range(60):
        state, last = step(state, frozen, images, key)
    assert last["vae/reconstruction"] < 0.8 * first["vae/reconstruction"]
    assert distance(state.learner.params) < 0.5 * distance(params)
