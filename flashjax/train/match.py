"""The two steps of distribution matching: the student's, and its critic's (fake score and heads).

Source: SD3.5-Flash, arXiv:2509.21318 (timestep sharing, adversarial heads on the fake score's
features, heads re-drawn at random); DMD2, arXiv:2405.14867 (two time scales, softplus losses);
SenseFlow, arXiv:2506.00523 (the fake score is pulled towards the student).
Letters: b batch, s student steps, t taps.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.lax import stop_gradient

from flashjax.flow import path
from flashjax.flow.guidance import Velocity, guided
from flashjax.flow.schedule import SigmaDensity, draw_sigma
from flashjax.losses import adversarial, distribution_matching
from flashjax.losses.flow_matching import flow_matching_loss
from flashjax.losses.trajectory import segment_velocity, trajectory_loss
from flashjax.models.text import TextConfig, draw_t5_drop, encode_pair
from flashjax.train.accumulate import gradients
from flashjax.train.rollout import StudentStep, draw_step, make_teacher_passes, student_input
from flashjax.train.state import Frozen, Learner, MatchState, descend
from flashjax.types import (
    Batch,
    Cond,
    Count,
    Decay,
    Metrics,
    Params,
    Positive,
    Share,
    Weight,
)

Advance = Callable[[MatchState, Frozen, Batch, Array], tuple[MatchState, Metrics]]


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """Where scores are compared and how the losses are weighed.

    A batch is differentiated in `parts`, one after the other; each draws its own student step.
    """

    eta: Share  # 0: timestep sharing, 1: re-noising
    guidance_scale: Weight
    fake_density: SigmaDensity  # noise levels of the fake score's training
    shared_share: Share  # share of its samples that are trained exactly at the shared levels
    adversarial_weight: Weight
    trajectory_weight: Weight
    trajectory_substeps: Count
    head_reset: Share  # probability per head and critic step of being drawn anew
    fake_pull: Share  # fake <- (1 - pull) fake + pull student, after every student step
    drop_t5: Share
    ema_decay: Decay
    halved: Share  # share of batches on every other level of the grid, in half as many steps
    floor: Positive = 0.1  # of the normaliser of the matching gradient
    renoise: tuple[Share, Share] = (0.02, 0.98)
    parts: Count = 1


@dataclasses.dataclass(frozen=True)
class Networks:
    """The functions of parameters that the two steps call."""

    velocity: Velocity
    features: Callable[[Params, Array, Array, Cond], tuple[Array, Array]]  # velocity, "t b n d"
    heads: Callable[..., Array]  # `(params, tokens "t b n d", height=)` to logits
    init_heads: Callable[[Array], Params]
    text: TextConfig


def matching_point(
    x0: Array, student_noise: Array, at: StudentStep, key: Array, config: MatchConfig
) -> tuple[Array, Array]:
    """Where teacher and fake score are compared: `x` "b ..." and its `sigma` "b".

    A step shares a later level of the grid and the student's own noise (eta < 1). The last step has
    no later level above 0, and on the student's own line its pull would vanish: it is re-noised at
    a uniform level, and so is every step if eta = 1.
    """
    level_key, uniform_key, fresh_key = jax.random.split(key, 3)
    batch, sigmas, index, steps = x0.shape[0], at.sigmas, at.index, jnp.sum(at.sigmas > 0)
    later = jax.random.uniform(level_key, (batch,)) * (steps - 1 - index)
    shared = sigmas[jnp.minimum(index + 1 + later.astype(jnp.int32), steps - 1)]
    low, high = config.renoise
    uniform = jax.random.uniform(uniform_key, (batch,), minval=low, maxval=high)
    renoised = (index == steps - 1) | (config.eta == 1.0)
    eta = jnp.full((batch,), jnp.where(renoised, 1.0, config.eta))
    sigma = jnp.where(renoised, uniform, shared)
    fresh = jax.random.normal(fresh_key, x0.shape)
    return path.add_noise(x0, path.matching_noise(student_noise, fresh, eta), sigma), sigma


def make_student_loss(
    nets: Networks, config: MatchConfig, sigmas: Array
) -> Callable[[Params, MatchState, Frozen, Batch, Array], tuple[Array, Metrics]]:
    """Builds `loss(params, state, frozen, batch, key) -> (loss, metrics)` of the student.

    A term of weight 0 is not computed.
    """
    guidance, substeps = config.guidance_scale, config.trajectory_substeps
    teach = guided(nets.velocity, guidance)
    passes = make_teacher_passes(nets.velocity, guidance_scale=guidance, substeps=substeps)

    def match(x0, x, sigma, teacher_velocity, fake, cond) -> tuple[Array, Metrics]:
        teacher_x0 = path.to_x0(teacher_velocity, x, sigma)
        fake_x0 = path.to_x0(nets.velocity(fake, x, sigma, cond), x, sigma)
        gradient = stop_gradient(
            distribution_matching.matching_gradient(x0, teacher_x0, fake_x0, floor=config.floor)
        )
        loss = jnp.mean(distribution_matching.matching_loss(x0, gradient))
        gap = jnp.mean(jnp.abs(fake_x0 - teacher_x0))
        return loss, {"student/matching_loss": loss, "student/score_gap": gap}

    def deceive(x0, state, cond, key) -> tuple[Array, Metrics]:
        level_key, noise_key = jax.random.split(key)
        sigma = jax.random.uniform(level_key, x0.shape[:1])
        x = path.add_noise(x0, jax.random.normal(noise_key, x0.shape), sigma)
        _, tokens = nets.features(state.fake.params, x, sigma, cond)
        logits = nets.heads(state.heads.params, tokens, height=x.shape[1])
        loss = adversarial.generator_loss(logits)
        return loss, {"student/adversarial_loss": loss}

    def loss_fn(params, state, frozen, batch, key) -> tuple[Array, Metrics]:
        step_key, noise_key, match_key, deceive_key, drop_key = jax.random.split(key, 5)
        drop = draw_t5_drop(drop_key, len(batch.latents), config.drop_t5)
        cond, uncond = encode_pair(nets.text, frozen.text, batch.tokens, frozen.empty, drop=drop)
        at = draw_step(step_key, sigmas, frozen.span, halved=config.halved)
        noise = jax.random.normal(noise_key, batch.latents.shape)
        x = student_input(nets.velocity, params, frozen, at, cond, noise=noise)
        sigma, next_sigma = (jnp.full(x.shape[:1], at.sigmas[at.index + k]) for k in (0, 1))
        velocity = nets.velocity(params, x, sigma, cond)
        x0, student_noise = path.to_x0(velocity, x, sigma), path.to_noise(velocity, x, sigma)

        point = stop_gradient(matching_point(x0, student_noise, at, match_key, config))
        if config.trajectory_weight:
            start = (x, sigma)
            guided_velocity, end = passes(frozen.teacher, point, start, next_sigma, cond, uncond)
        else:
            guided_velocity = teach(frozen.teacher, *point, cond, uncond)
        loss, metrics = match(x0, *point, guided_velocity, state.fake.params, cond)
        if config.adversarial_weight and batch.pictures:
            term, more = deceive(x0, state, cond, deceive_key)
            loss, metrics = loss + config.adversarial_weight * term, metrics | more
        if config.trajectory_weight:
            target = segment_velocity(x, end, sigma, next_sigma)
            term = jnp.mean(trajectory_loss(velocity, target))
            loss = loss + config.trajectory_weight * term
            metrics = metrics | {"student/trajectory_loss": term}
        return loss, metrics

    return loss_fn


def make_student_step(
    nets: Networks, tx: optax.GradientTransformation, config: MatchConfig, sigmas: Array
) -> Advance:
    """Builds `step(state, frozen, batch, key) -> (state, metrics)` for the student."""
    grads_of = gradients(make_student_loss(nets, config, sigmas), config.parts)

    def step(
        state: MatchState, frozen: Frozen, batch: Batch, key: Array
    ) -> tuple[MatchState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        grads, metrics = grads_of(state.student.params, state, frozen, batch, key)
        metrics["student/grad_norm"] = optax.tree.norm(grads)
        student = descend(state.student, grads, tx, ema_decay=config.ema_decay)
        pulled = optax.incremental_update(student.params, state.fake.params, config.fake_pull)
        fake = dataclasses.replace(state.fake, params=pulled)
        return dataclasses.replace(state, step=state.step + 1, student=student, fake=fake), metrics

    return step


def draw_levels(key: Array, size: int, config: MatchConfig, sigmas: Array) -> Array:
    """Noise levels "b" that the fake score trains at: a share at the shared levels of the grid."""
    density_key, grid_key, share_key = jax.random.split(key, 3)
    spread = draw_sigma(density_key, size, config.fake_density)
    grid = jax.random.choice(grid_key, sigmas[1:-1], (size,))
    shared = jax.random.bernoulli(share_key, config.shared_share, (size,))
    return jnp.where(shared, grid, spread)


def make_critic_loss(
    nets: Networks, config: MatchConfig, sigmas: Array
) -> Callable[[Params, Params, Frozen, Batch, Array], tuple[Array, Metrics]]:
    """Builds `loss(learned, student, frozen, batch, key) -> (loss, metrics)` of the critic.

    `learned` are the parameters {"fake", "heads"}. The fake score learns the student's samples by
    flow matching with fresh noise. The heads read its features; their gradient stops there, so that
    it stays an estimator of the score.
    """

    def drawn(student, frozen, cond, step_key, noise) -> Array:
        """The student's samples."""
        at = draw_step(step_key, sigmas, frozen.span, halved=config.halved)
        x = student_input(nets.velocity, student, frozen, at, cond, noise=noise)
        sigma = jnp.full(x.shape[:1], at.sigmas[at.index])
        return path.to_x0(nets.velocity(student, x, sigma, cond), x, sigma)

    def judged(learned, x0, batch, cond, key) -> tuple[Array, Metrics]:
        sigma_key, noise_key = jax.random.split(key)
        sigma = draw_levels(sigma_key, len(x0), config, sigmas)
        noise = jax.random.normal(noise_key, x0.shape)
        x = path.add_noise(x0, noise, sigma)
        velocity, fake_tokens = nets.features(learned["fake"], x, sigma, cond)
        fake_loss = jnp.mean(flow_matching_loss(velocity, x0, noise))
        if not (config.adversarial_weight and batch.pictures):
            return fake_loss, {"fake/loss": fake_loss}

        real = path.add_noise(batch.latents, noise, sigma)
        _, real_tokens = nets.features(stop_gradient(learned["fake"]), real, sigma, cond)
        judge = functools.partial(nets.heads, learned["heads"], height=x.shape[1])
        heads_loss = adversarial.critic_loss(
            judge(stop_gradient(real_tokens)),
            judge(stop_gradient(fake_tokens)),
        )
        return fake_loss + heads_loss, {"fake/loss": fake_loss, "heads/loss": heads_loss}

    def loss_fn(learned, student, frozen, batch, key) -> tuple[Array, Metrics]:
        step_key, noise_key, loss_key, _, drop_key = jax.random.split(key, 5)
        drop = draw_t5_drop(drop_key, len(batch.latents), config.drop_t5)
        cond, _ = encode_pair(nets.text, frozen.text, batch.tokens, frozen.empty, drop=drop)
        noise = jax.random.normal(noise_key, batch.latents.shape)
        x0 = drawn(student, frozen, cond, step_key, noise)
        return judged(learned, x0, batch, cond, loss_key)

    return loss_fn


def make_critic_step(
    nets: Networks,
    fake_tx: optax.GradientTransformation,
    heads_tx: optax.GradientTransformation,
    config: MatchConfig,
    sigmas: Array,
) -> Advance:
    """Builds `step(state, frozen, batch, key) -> (state, metrics)` for fake score and heads."""
    grads_of = gradients(make_critic_loss(nets, config, sigmas), config.parts)

    def step(
        state: MatchState, frozen: Frozen, batch: Batch, key: Array
    ) -> tuple[MatchState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        reset_key = jax.random.split(key, 5)[3]
        learned = {"fake": state.fake.params, "heads": state.heads.params}
        grads, metrics = grads_of(learned, state.student.params, frozen, batch, key)
        metrics["fake/grad_norm"] = optax.tree.norm(grads["fake"])
        fake = descend(state.fake, grads["fake"], fake_tx, ema_decay=config.ema_decay)
        heads = descend(state.heads, grads["heads"], heads_tx, ema_decay=config.ema_decay)
        heads = redraw_heads(heads, nets.init_heads, config.head_reset, reset_key)
        return dataclasses.replace(state, step=state.step + 1, fake=fake, heads=heads), metrics

    return step


def redraw_heads(
    heads: Learner, init: Callable[[Array], Params], probability: float, key: Array
) -> Learner:
    """Gives each head, with `probability`, new weights and an empty optimiser memory.

    Every array of a head, and of its optimiser, has the pool of heads as its first dim; scalars
    belong to all heads and stay.
    """
    draw_key, init_key = jax.random.split(key)
    pool = len(jax.tree.leaves(heads.params)[0])
    redrawn = jax.random.bernoulli(draw_key, probability, (pool,))

    def pick(new: Array, old: Array) -> Array:
        return jnp.where(path.along(redrawn, old), new, old) if old.ndim else old

    fresh = init(init_key)
    return Learner(
        params=jax.tree.map(pick, fresh, heads.params),
        opt=jax.tree.map(lambda leaf: pick(jnp.zeros_like(leaf), leaf), heads.opt),
        ema=jax.tree.map(pick, fresh, heads.ema),
    )
