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
from jax import Array
from jax.lax import stop_gradient

from flashjax.flow import path
from flashjax.flow.guidance import Velocity, guided
from flashjax.losses import adversarial, distribution_matching
from flashjax.losses.feature_matching import feature_loss
from flashjax.losses.trajectory import segment_velocity, trajectory_loss
from flashjax.models.halved import told
from flashjax.models.text import TextConfig, draw_t5_drop, encode_pair
from flashjax.train.accumulate import gradients
from flashjax.train.arms import (
    MatchConfig,
    draw_guidance,
    draw_interval,
    draw_levels,
    gradient_of,
    interval_point,
    matching_point,
)
from flashjax.train.average import averaged
from flashjax.train.rollout import (
    StudentStep,
    Taken,
    draw_step,
    make_teacher_passes,
    student_input,
    take_all,
    take_step,
)
from flashjax.train.state import Descent, Frozen, Learner, MatchState, descend
from flashjax.types import Batch, Cond, Metrics, Params

Advance = Callable[[MatchState, Frozen, Batch, Array], tuple[MatchState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Networks:
    """The functions of parameters that the two steps call."""

    velocity: Velocity
    features: Callable[[Params, Array, Array, Cond], tuple[Array, Array]]  # velocity, "t b n d"
    heads: Callable[..., Array]  # `(params, tokens "t b n d", height=)` to logits
    init_heads: Callable[[Array], Params]
    text: TextConfig


def make_student_loss(
    nets: Networks, config: MatchConfig, sigmas: Array
) -> Callable[[Params, MatchState, Frozen, Batch, Array], tuple[Array, Metrics]]:
    """Builds `loss(params, state, frozen, batch, key) -> (loss, metrics)` of the student.

    A term of weight 0 is not computed.
    """

    def taken(params, frozen, cond, step_key, noise) -> Taken:
        if config.through:
            return take_all(nets.velocity, params, sigmas, cond, noise)
        at = draw_step(step_key, sigmas, frozen.span, halved=config.halved)
        return take_step(nets.velocity, params, frozen, at, cond, noise)

    def teach(frozen, taken, point, conds, guidance) -> tuple[Array, Array | None]:
        """The guided velocity at the matching point, and where the learnt trajectory ends."""
        if not config.trajectory_weight:
            return guided(nets.velocity, guidance)(frozen.teacher, *point, *conds), None
        passes = make_teacher_passes(
            nets.velocity, guidance_scale=guidance, substeps=config.trajectory_substeps
        )
        return passes(frozen.teacher, point, taken.start, taken.next_sigma, *conds)

    def loss_fn(params, state, frozen, batch, key) -> tuple[Array, Metrics]:
        step_key, noise_key, match_key, judge_key, drop_key = jax.random.split(key, 5)
        guidance = draw_guidance(jax.random.fold_in(key, 5), batch.latents, config)
        drop = draw_t5_drop(drop_key, len(batch.latents), config.drop_t5)
        conds = encode_pair(nets.text, frozen.text, batch.tokens, frozen.empty, drop=drop)
        noise = jax.random.normal(noise_key, batch.latents.shape)
        own = taken(params, frozen, conds[0], step_key, noise)
        point = stop_gradient(matching_point(own.x0, own.noise, own.at, match_key, config))
        velocity, end = teach(frozen, own, point, conds, guidance)
        loss, metrics = jnp.float32(0.0), Metrics()
        if config.matching_weight:
            term, metrics = matching_term(nets, config, own.x0, point, velocity, state, conds[0])
            loss = config.matching_weight * term
        if batch.pictures and (config.adversarial_weight or config.feature_weight):
            judge = functools.partial(judged_term, nets, config, own.x0, batch, judge_key)
            term, more = judge(sigmas, state, conds[0])
            loss, metrics = loss + term, metrics | more
        if end is not None:
            target = segment_velocity(own.start[0], end, own.start[1], own.next_sigma)
            term = jnp.mean(trajectory_loss(own.velocity, target))
            loss = loss + config.trajectory_weight * term
            metrics = metrics | {"student/trajectory_loss": term}
        return loss, metrics

    return loss_fn


def matching_term(
    nets: Networks,
    config: MatchConfig,
    x0: Array,
    point: tuple[Array, Array],
    teacher_velocity: Array,
    state: MatchState,
    cond: Cond,
) -> tuple[Array, Metrics]:
    """The matching loss of samples `x0`, with the scores compared at `point`."""
    x, sigma = point
    teacher_x0 = path.to_x0(teacher_velocity, x, sigma)
    fake_x0 = path.to_x0(nets.velocity(state.fake.params, x, sigma, cond), x, sigma)
    gradient = stop_gradient(gradient_of(config)(x0, teacher_x0, fake_x0, floor=config.floor))
    loss = jnp.mean(distribution_matching.matching_loss(x0, gradient))
    gap = jnp.mean(jnp.abs(fake_x0 - teacher_x0))
    return loss, {"student/matching_loss": loss, "student/score_gap": gap}


def judged_term(
    nets: Networks,
    config: MatchConfig,
    x0: Array,
    batch: Batch,
    key: Array,
    sigmas: Array,
    state: MatchState,
    cond: Cond,
) -> tuple[Array, Metrics]:
    """What the heads, and the mean features of real samples, say of samples `x0`."""
    level_key, noise_key = jax.random.split(key)
    sigma = draw_levels(level_key, len(x0), config, sigmas)
    noise = jax.random.normal(noise_key, x0.shape)
    features = lambda x: nets.features(state.fake.params, x, sigma, cond)[1]
    tokens = features(path.add_noise(x0, noise, sigma))
    loss, metrics = jnp.zeros(()), {}
    if config.adversarial_weight:
        logits = nets.heads(state.heads.params, tokens, height=x0.shape[1])
        term = adversarial.generator_loss(logits, config.adversarial)
        loss, metrics = config.adversarial_weight * term, {"student/adversarial_loss": term}
    if config.feature_weight:
        real = path.add_noise(jnp.asarray(batch.latents), noise, sigma)
        term = feature_loss(tokens, features(real))
        loss = loss + config.feature_weight * term
        metrics = metrics | {"student/feature_loss": term}
    return loss, metrics


def make_student_step(
    nets: Networks, descent: Descent, config: MatchConfig, sigmas: Array
) -> Advance:
    """Builds `step(state, frozen, batch, key) -> (state, metrics)` for the student."""
    grads_of = gradients(make_student_loss(nets, config, sigmas), config.parts)

    def student_step(
        state: MatchState, frozen: Frozen, batch: Batch, key: Array
    ) -> tuple[MatchState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        grads, metrics = grads_of(state.student.params, state, frozen, batch, key)
        student, metrics = descend("student", state.student, grads, metrics, descent)
        state = dataclasses.replace(state, step=state.step + 1, student=student)
        if not config.fake_pull:
            return state, metrics
        whole = told(student.params, halved=False)  # the fake score knows of no grid
        pulled = averaged(state.fake.params, whole, 1.0 - config.fake_pull)
        params = jax.tree.map(  # a student that did not move pulls nobody
            lambda new, old: jnp.where(student.tally.in_row, old, new), pulled, state.fake.params
        )
        fake = dataclasses.replace(state.fake, params=params)
        return dataclasses.replace(state, fake=fake), metrics

    return student_step


def make_critic_loss(
    nets: Networks, config: MatchConfig, sigmas: Array
) -> Callable[[Params, Params, Frozen, Batch, Array], tuple[Array, Metrics]]:
    """Builds `loss(learned, student, frozen, batch, key) -> (loss, metrics)` of the critic.

    `learned` are the parameters {"fake", "heads"}. The fake score learns the student's samples by
    flow matching with fresh noise, or with a share of the student's own (`config.fake_eta`): then
    it learns the student's lines, which are no score. The heads read its features, of real samples
    with the same noise and levels; their gradient stops there, so that it stays an estimator of the
    score, or goes on with the weight `config.heads_reach`.
    """

    def drawn(student, frozen, cond, step_key, noise) -> tuple[Array, Array, Array]:
        """The student's samples, its own noise, and an interval's lower end, or else 0."""
        at = draw_step(step_key, sigmas, frozen.span, halved=config.halved)
        if config.through:  # the last sample is the one that is matched
            at = StudentStep(sigmas, jnp.int32(len(sigmas) - 2), at.first)
        student = told(student, at.halved)
        x = student_input(nets.velocity, student, frozen, at, cond, noise=noise)
        sigma = jnp.full(x.shape[:1], at.sigmas[at.index])
        velocity = nets.velocity(student, x, sigma, cond)
        low = at.sigmas[at.index + 1] if config.level == "interval" else 0.0
        ends = path.to_x0(velocity, x, sigma), path.to_noise(velocity, x, sigma)
        return *ends, jnp.full_like(sigma, low)

    def judged(learned, x0, own, low, batch, cond, key) -> tuple[Array, Metrics]:
        sigma_key, noise_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, x0.shape)
        if config.fake_eta < 1.0:  # 1 is the fresh noise to the last bit
            noise = path.matching_noise(own, noise, config.fake_eta)
        if config.level == "interval":
            sigma, weight = draw_interval(sigma_key, low, config)
            x, target = interval_point(x0, own, low, sigma, noise, config)
        else:
            sigma = draw_levels(sigma_key, len(x0), config, sigmas)
            weight = jnp.ones_like(sigma)
            x, target = path.add_noise(x0, noise, sigma), noise - x0
        velocity, fake_tokens = nets.features(learned["fake"], x, sigma, cond)
        fake_loss = jnp.mean(weight * trajectory_loss(velocity, target))
        if not (config.adversarial_weight and batch.pictures):
            return fake_loss, {"fake/loss": fake_loss}

        real = path.add_noise(batch.latents, noise, sigma)
        backbone = reached(learned["fake"], config.heads_reach)
        _, real_tokens = nets.features(backbone, real, sigma, cond)
        judge = functools.partial(nets.heads, learned["heads"], height=x.shape[1])
        heads_loss = adversarial.critic_loss(
            judge(real_tokens), judge(reached(fake_tokens, config.heads_reach)), config.adversarial
        )
        return fake_loss + heads_loss, {"fake/loss": fake_loss, "heads/loss": heads_loss}

    def loss_fn(learned, student, frozen, batch, key) -> tuple[Array, Metrics]:
        step_key, noise_key, loss_key, _, drop_key = jax.random.split(key, 5)
        drop = draw_t5_drop(drop_key, len(batch.latents), config.drop_t5)
        cond, _ = encode_pair(nets.text, frozen.text, batch.tokens, frozen.empty, drop=drop)
        noise = jax.random.normal(noise_key, batch.latents.shape)
        x0, own, low = drawn(student, frozen, cond, step_key, noise)
        return judged(learned, x0, own, low, batch, cond, loss_key)

    return loss_fn


def reached(tree: Params, weight: float) -> Params:
    """The same values, with `weight` times the gradient; without any for 0."""
    if not weight:
        return stop_gradient(tree)
    return jax.tree.map(lambda x: averaged(x, stop_gradient(x), weight), tree)


def make_critic_step(
    nets: Networks,
    fake_descent: Descent,
    heads_descent: Descent,
    config: MatchConfig,
    sigmas: Array,
) -> Advance:
    """Builds `step(state, frozen, batch, key) -> (state, metrics)` for fake score and heads."""
    grads_of = gradients(make_critic_loss(nets, config, sigmas), config.parts)

    def critic_step(
        state: MatchState, frozen: Frozen, batch: Batch, key: Array
    ) -> tuple[MatchState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        reset_key = jax.random.split(key, 5)[3]
        learned = {"fake": state.fake.params, "heads": state.heads.params}
        grads, metrics = grads_of(learned, state.student.params, frozen, batch, key)
        fake, metrics = descend("fake", state.fake, grads["fake"], metrics, fake_descent)
        heads, metrics = descend("heads", state.heads, grads["heads"], metrics, heads_descent)
        heads = redraw_heads(heads, nets.init_heads, config.head_reset, reset_key)
        return dataclasses.replace(state, step=state.step + 1, fake=fake, heads=heads), metrics

    return critic_step


def redraw_heads(
    heads: Learner, init: Callable[[Array], Params], probability: float, key: Array
) -> Learner:
    """Gives each head, with `probability`, new weights and an empty optimiser memory.

    Every array of a head, and of its optimiser, has the pool of heads as its first dim, the count
    of its updates too; scalars belong to all heads and stay.
    """
    draw_key, init_key = jax.random.split(key)
    pool = len(jax.tree.leaves(heads.params)[0])
    redrawn = jax.random.bernoulli(draw_key, probability, (pool,))

    def pick(new: Array, old: Array) -> Array:
        return jnp.where(path.along(redrawn, old), new, old) if old.ndim else old

    return dataclasses.replace(
        heads,
        params=jax.tree.map(pick, init(init_key), heads.params),
        opt=jax.tree.map(lambda leaf: pick(jnp.zeros_like(leaf), leaf), heads.opt),
    )
