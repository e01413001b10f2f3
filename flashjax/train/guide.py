"""The step of trajectory guidance: every student step learns where the guided teacher would end.

Source: SD3.5-Flash, arXiv:2509.21318 (pre-training); the inputs are forward-noised data, which at
the first step is pure noise, or, without pictures, states of the student's own trajectory.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.flow.guidance import Velocity
from flashjax.flow.path import add_noise
from flashjax.losses.trajectory import segment_velocity, trajectory_loss
from flashjax.models.text import TextConfig, draw_t5_drop, encode_pair
from flashjax.train.accumulate import gradients
from flashjax.train.rollout import draw_step, make_teacher_segment, student_input
from flashjax.train.state import Descent, Frozen, TrainState, descend
from flashjax.types import Batch, Count, Metrics, Params, Share, Weight


@dataclasses.dataclass(frozen=True)
class GuideConfig:
    """The teacher's guidance and sub-steps per student step, and dropout.

    A batch is differentiated in `parts`, one after the other.
    """

    guidance_scale: Weight  # of the teacher
    substeps: Count  # of the teacher within a step of the student
    drop_t5: Share  # share of samples without T5, so that the student works without it too
    parts: Count = 1  # of a batch, differentiated one after the other


def make_guide_step(
    velocity: Velocity,
    text: TextConfig,
    descent: Descent,
    config: GuideConfig,
    sigmas: Array,
) -> Callable[[TrainState, Frozen, Batch, Array], tuple[TrainState, Metrics]]:
    """Builds `step(state, frozen, batch, key) -> (state, metrics)`.

    `sigmas` "s+1" is the student's grid. Every sample draws its own step of it; captions without
    pictures begin with pure noise and share one.
    """
    segment = make_teacher_segment(
        velocity, guidance_scale=config.guidance_scale, substeps=config.substeps
    )

    def loss_fn(params: Params, frozen: Frozen, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        index_key, noise_key, drop_key = jax.random.split(key, 3)
        x0 = jnp.asarray(batch.latents)
        drop = draw_t5_drop(drop_key, len(x0), config.drop_t5)
        cond, uncond = encode_pair(text, frozen.text, batch.tokens, frozen.empty, drop=drop)
        noise = jax.random.normal(noise_key, x0.shape)
        if batch.pictures:
            index = jax.random.randint(index_key, x0.shape[:1], 0, len(sigmas) - 1)
            sigma, next_sigma = sigmas[index], sigmas[index + 1]
            x = add_noise(x0, noise, sigma)
        else:  # nothing to noise: the student's own state, at one step for the whole batch
            at = draw_step(index_key, sigmas, frozen.span, halved=0.0)
            sigma, next_sigma = (jnp.full(x0.shape[:1], sigmas[at.index + k]) for k in (0, 1))
            x = student_input(velocity, params, frozen, at, cond, noise=noise)
        end = segment(frozen.teacher, x, sigma, next_sigma, cond, uncond)
        target = segment_velocity(x, end, sigma, next_sigma)
        loss = jnp.mean(trajectory_loss(velocity(params, x, sigma, cond), target))
        return loss, {"student/loss": loss}

    grads_of = gradients(loss_fn, config.parts)

    def guide_step(
        state: TrainState, frozen: Frozen, batch: Batch, key: Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        grads, metrics = grads_of(state.learner.params, frozen, batch, key)
        learner, metrics = descend("student", state.learner, grads, metrics, descent)
        return TrainState(step=state.step + 1, learner=learner), metrics

    return guide_step
