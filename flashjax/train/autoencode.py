"""The step that trains the autoencoder."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from flashjax.losses.autoencoder import kl_to_unit_gaussian, reconstruction_loss
from flashjax.models.layers import apply
from flashjax.models.vae import VAE, VAEConfig
from flashjax.train.state import TrainState, descend
from flashjax.types import Metrics, Params


def make_autoencoder_step(
    config: VAEConfig, tx: optax.GradientTransformation, *, kl_weight: float
) -> Callable[[TrainState, Array, Array], tuple[TrainState, Metrics]]:
    """Builds `step(state, images, key) -> (state, metrics)` over images "b h w 3" in [-1, 1]."""
    model = VAE(config)

    def loss_fn(params: Params, images: Array, key: Array) -> tuple[Array, Metrics]:
        mean, log_variance = apply(model, params, images, method="moments")
        raw = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        decoded = apply(model, params, raw, method="decode_raw")
        reconstruction = reconstruction_loss(images, decoded)
        kl = kl_to_unit_gaussian(mean, log_variance)
        psnr = -10.0 * jnp.log10(jnp.mean(jnp.square(decoded - images)) / 4.0)
        metrics = {"vae/reconstruction": reconstruction, "vae/kl": kl, "vae/psnr_db": psnr}
        return reconstruction + kl_weight * kl, metrics

    def step(state: TrainState, images: Array, key: Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.learner.params, images, key)
        metrics["vae/grad_norm"] = optax.tree.norm(grads)
        learner = descend(state.learner, grads, tx, ema_decay=0.99)
        return TrainState(step=state.step + 1, learner=learner), metrics

    return step
