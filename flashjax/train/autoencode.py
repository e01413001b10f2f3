"""The steps that train an autoencoder: a new one, and a cheaper one for the same latents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.losses.autoencoder import gaussian_kl, reconstruction_loss
from flashjax.models.layers import apply
from flashjax.models.vae import VAE, VAEConfig
from flashjax.train.state import Descent, TrainState, descend
from flashjax.types import Metrics, Params


def make_autoencoder_step(
    config: VAEConfig, descent: Descent, *, kl_weight: float
) -> Callable[[TrainState, Array, Array], tuple[TrainState, Metrics]]:
    """Builds `step(state, images, key) -> (state, metrics)` over images "b h w 3" in [-1, 1]."""
    model = VAE(config)

    def loss_fn(params: Params, images: Array, key: Array) -> tuple[Array, Metrics]:
        mean, log_variance = apply(model, params, images, method="moments")
        decoded = apply(model, params, draw(mean, log_variance, key), method="decode_raw")
        return weigh(images, decoded, gaussian_kl(mean, log_variance), kl_weight)

    def step(state: TrainState, images: Array, key: Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.learner.params, images, key)
        return learn(state, grads, metrics, descent)

    return step


def make_slim_step(
    config: VAEConfig, whole: VAEConfig, descent: Descent, *, kl_weight: float
) -> Callable[[TrainState, Params, Array, Array], tuple[TrainState, Metrics]]:
    """Builds `step(state, frozen, images, key) -> (state, metrics)` for an autoencoder `config`.

    It learns to speak the latents of the frozen autoencoder `whole`: its decoder reads what that
    one's encoder says, and its encoder says the same. What was trained on the latents stays right.
    """
    model, speaker = VAE(config), VAE(whole)

    def loss_fn(params: Params, frozen: Params, images: Array, key: Array) -> tuple[Array, Metrics]:
        said, said_log = apply(speaker, frozen, images, method="moments")
        mean, log_variance = apply(model, params, images, method="moments")
        decoded = apply(model, params, draw(said, said_log, key), method="decode_raw")
        kl = gaussian_kl(said, said_log, mean, log_variance)
        return weigh(images, decoded, kl, kl_weight)

    def step(
        state: TrainState, frozen: Params, images: Array, key: Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.learner.params, frozen, images, key)
        return learn(state, grads, metrics, descent)

    return step


def draw(mean: Array, log_variance: Array, key: Array) -> Array:
    """Raw latents of these moments."""
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)


def weigh(images: Array, decoded: Array, kl: Array, kl_weight: float) -> tuple[Array, Metrics]:
    """The loss, and the figures of its parts."""
    reconstruction = reconstruction_loss(images, decoded)
    psnr = psnr_db(images, decoded)
    metrics = {"vae/reconstruction": reconstruction, "vae/kl": kl, "vae/psnr_db": psnr}
    return reconstruction + kl_weight * kl, metrics


def psnr_db(images: Array, decoded: Array) -> Array:
    """Peak signal-to-noise ratio of images in [-1, 1], in decibels."""
    return -10.0 * jnp.log10(jnp.mean(jnp.square(decoded - images)) / 4.0)


def learn(
    state: TrainState, grads: Params, metrics: Metrics, descent: Descent
) -> tuple[TrainState, Metrics]:
    """The state after one update, and the figures with those of the update."""
    learner, metrics = descend("vae", state.learner, grads, metrics, descent)
    return TrainState(step=state.step + 1, learner=learner), metrics
