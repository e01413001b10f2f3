"""The step that trains a teacher by flow matching, its text encoders with it.

Source: Esser et al. 2024, arXiv:2403.03206, section 3 (logit-normal noise levels) and section 5.3.1
(every text encoder is dropped on its own, so that any subset of them works at inference).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.flow.guidance import Velocity
from flashjax.flow.path import add_noise
from flashjax.flow.schedule import SigmaDensity, draw_sigma
from flashjax.losses.flow_matching import flow_matching_loss
from flashjax.models.text import TextConfig, encode_text
from flashjax.train.state import Descent, TrainState, descend
from flashjax.types import Batch, Metrics, Params, Share, Tokens


@dataclasses.dataclass(frozen=True)
class TeachConfig:
    """Noise levels and dropout of the teacher's conditioning."""

    density: SigmaDensity
    drop_caption: Share  # share of samples trained on the empty caption, for guidance
    drop_encoder: tuple[Share, Share, Share]  # shares of samples without L, G, T5


def drop_captions(key: Array, tokens: Tokens, empty: Tokens, share: float) -> Tokens:
    """A `share` of the captions "b m" replaced by the empty one "1 m", in all encoders at once."""
    dropped = jax.random.bernoulli(key, share, tokens.t5.shape[:1])[:, None]
    return jax.tree.map(lambda ids, none: jnp.where(dropped, none, ids), tokens, empty)


def make_teach_step(
    velocity: Velocity, text: TextConfig, descent: Descent, config: TeachConfig
) -> Callable[[TrainState, Tokens, Batch, Array], tuple[TrainState, Metrics]]:
    """Builds `step(state, empty, batch, key) -> (state, metrics)`.

    The parameters are {"transformer", "text"}; `empty` holds the tokens "1 m" of the empty caption.
    """

    def loss_fn(params: Params, empty: Tokens, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        caption_key, encoder_key, sigma_key, noise_key = jax.random.split(key, 4)
        x0 = jnp.asarray(batch.latents)
        size = x0.shape[0]
        tokens = drop_captions(caption_key, batch.tokens, empty, config.drop_caption)
        shares = jnp.array(config.drop_encoder)
        drop = jax.random.uniform(encoder_key, (size, 3)) < shares[None, :]
        cond = encode_text(text, params["text"], tokens, drop=drop)

        sigma = draw_sigma(sigma_key, size, config.density)
        noise = jax.random.normal(noise_key, x0.shape)
        x = add_noise(x0, noise, sigma)
        predicted = velocity(params["transformer"], x, sigma, cond)
        loss = jnp.mean(flow_matching_loss(predicted, x0, noise))
        return loss, {"teacher/loss": loss}

    def step(
        state: TrainState, empty: Tokens, batch: Batch, key: Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state.learner.params, empty, batch, key)
        learner, metrics = descend("teacher", state.learner, grads, metrics, descent)
        return TrainState(step=state.step + 1, learner=learner), metrics

    return step
