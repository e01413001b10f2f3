"""Arms that change what is differentiated: through the later steps, and mean features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.lax import stop_gradient as stop

from flashjax.losses.feature_matching import feature_loss
from flashjax.losses.trajectory import trajectory_loss
from flashjax.models.text import draw_t5_drop, encode_pair
from flashjax.train.arms import matching_point
from flashjax.train.match import make_critic_loss, make_student_loss
from flashjax.train.rollout import StudentStep
from flashjax.types import InputError

GRID = (1.0, 0.9, 0.75, 0.5, 0.0)
SIGMAS = jnp.array(GRID)
ALONE = {"adversarial_weight": 0.0, "drop_t5": 0.0}


def wide(sigma):
    return sigma[:, None, None, None]


def conds_of(world, key):
    drop = draw_t5_drop(key, 3, 0.0)
    return jax.jit(encode_pair, static_argnums=0)(
        world.nets.text, world.frozen.text, world.batch.tokens, world.frozen.empty, drop=drop
    )


def roll_out(world, params, x, cond, *, held):
    """All four steps; `held` is asked for the state after the first."""
    first = None
    for k in range(4):
        v = world.nets.velocity(params, x, jnp.full(3, GRID[k]), cond)
        first = v if k == 0 else first
        before, x = x, x + (GRID[k + 1] - GRID[k]) * v
        x = held(x) if k == 0 else x
    return x, before + 0.5 * v, first


def test_through_the_steps_the_first_learns_its_secant_and_the_later_ones_the_last_sample(world):
    state, key, frozen = world.state(optax.sgd(0.1)), jax.random.key(3), world.frozen
    _, noise_key, match_key, _, drop_key = jax.random.split(key, 5)
    noise = jax.random.normal(noise_key, world.batch.latents.shape)
    cond, uncond = conds_of(world, drop_key)

    def teacher(x, level):
        args = (frozen.teacher, x, jnp.full(3, level) if jnp.ndim(level) == 0 else level)
        without = world.nets.velocity(*args, uncond)
        return without + 3.0 * (world.nets.velocity(*args, cond) - without)

    def reference(params):
        x0, own, first = roll_out(world, params, noise, cond, held=stop)
        at = StudentStep(SIGMAS, jnp.int32(3), jnp.int32(0))
        x, sigma = stop(matching_point(x0, own, at, match_key, world.config()))
        teacher_x0 = x - wide(sigma) * teacher(x, sigma)
        fake_x0 = x - wide(sigma) * world.nets.velocity(state.fake.params, x, sigma, cond)
        scale = jnp.abs(x0 - teacher_x0).mean((1, 2, 3), keepdims=True)
        target = stop(x0 - (fake_x0 - teacher_x0) / jnp.maximum(scale, 0.1))
        half = noise - 0.05 * teacher(noise, 1.0)
        end = half - 0.05 * teacher(half, 0.95)
        secant = ((first - (end - noise) / -0.1) ** 2).mean()
        return 0.5 * ((x0 - target) ** 2).mean() + 0.3 * secant

    loss = make_student_loss(world.nets, world.config(**ALONE, through=True), SIGMAS)
    got = jax.jit(jax.grad(lambda p: loss(p, state, frozen, world.batch, key)[0]))
    want = jax.jit(jax.grad(reference))(state.student.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6),
        got(state.student.params),
        want,
    )


def test_its_critic_learns_the_last_sample_whatever_step_is_drawn(world):
    """At step 0 of a student of one step the sample is that of the whole roll-out, by hand."""
    config = world.config(**ALONE, through=True)
    loss = jax.jit(make_critic_loss(world.nets, config, SIGMAS))
    learned = {"fake": world.init(3), "heads": {}}
    key = jax.random.key(1)
    found, _ = loss(learned, world.init(1), world.frozen.replace(student=None), world.batch, key)
    _, noise_key, loss_key, _, drop_key = jax.random.split(key, 5)
    cond, _ = conds_of(world, drop_key)
    noise = jax.random.normal(noise_key, world.batch.latents.shape)
    x0, _, _ = roll_out(world, world.init(1), noise, cond, held=lambda x: x)
    sigma_key, fresh_key = jax.random.split(loss_key)
    spread_key, grid_key, share_key = jax.random.split(sigma_key, 3)
    raw = jax.nn.sigmoid(0.3 + jax.random.normal(spread_key, (3,)))
    grid = jax.random.choice(grid_key, SIGMAS[1:4], (3,))
    sigma = jnp.where(jax.random.bernoulli(share_key, 0.25, (3,)), grid, 3 * raw / (1 + 2 * raw))
    fresh = jax.random.normal(fresh_key, x0.shape)
    x = (1 - wide(sigma)) * x0 + wide(sigma) * fresh
    v = world.nets.velocity(world.init(3), x, sigma, cond)
    np.testing.assert_allclose(found, ((v - (fresh - x0)) ** 2).mean(), rtol=1e-4)


def test_mean_features_pull_as_finite_differences_say(world):
    """A student of one step, so that its input does not move; along a random direction."""
    state, key = world.state(optax.sgd(0.1)), jax.random.key(2)
    frozen = world.frozen.replace(span=jnp.array([0, 1], jnp.int32))

    def built(weight):
        config = world.config(
            **ALONE, trajectory_weight=0.0, shared_share=0.0, feature_weight=weight
        )
        loss = make_student_loss(world.nets, config, jnp.array([1.0, 0.0]))
        return jax.jit(
            jax.value_and_grad(lambda p: loss(p, state, frozen, world.batch, key), has_aux=True)
        )

    params = state.student.params
    random = np.random.default_rng(0)
    along = jax.tree.map(lambda leaf: jnp.float32(random.normal(size=leaf.shape)), params)
    moved = lambda step: jax.tree.map(lambda p, d: p + step * d, params, along)
    with_features, without = built(2.0), built(0.0)
    up, down = (with_features(moved(s))[0][1]["student/feature_loss"] for s in (1e-2, -1e-2))
    grads = [build(params)[1] for build in (with_features, without)]
    dot = sum(
        float(jnp.vdot(a - b, d))
        for a, b, d in zip(*map(jax.tree.leaves, (*grads, along)), strict=True)
    )
    assert dot == pytest.approx(2.0 * float(up - down) / 2e-2, rel=0.03)


def test_the_feature_loss_is_that_of_the_fake_scores_features(world):
    """With the same levels and noise for samples and real ones."""
    state, key = world.state(optax.sgd(0.1)), jax.random.key(2)
    config = world.config(**ALONE, trajectory_weight=0.0, shared_share=0.0, feature_weight=1.0)
    loss = jax.jit(make_student_loss(world.nets, config, jnp.array([1.0, 0.0])))
    frozen = world.frozen.replace(span=jnp.array([0, 1], jnp.int32))
    _, metrics = loss(state.student.params, state, frozen, world.batch, key)
    _, noise_key, _, judge_key, drop_key = jax.random.split(key, 5)
    cond, _ = conds_of(world, drop_key)
    noise = jax.random.normal(noise_key, world.batch.latents.shape)
    x0 = noise - world.nets.velocity(state.student.params, noise, jnp.ones(3), cond)
    level_key, fresh_key = jax.random.split(judge_key)
    raw = jax.nn.sigmoid(0.3 + jax.random.normal(jax.random.split(level_key, 3)[0], (3,)))
    sigma = 3 * raw / (1 + 2 * raw)
    fresh = jax.random.normal(fresh_key, x0.shape)
    tokens = [
        world.nets.features(
            state.fake.params, (1 - wide(sigma)) * y + wide(sigma) * fresh, sigma, cond
        )[1]
        for y in (x0, world.batch.latents)
    ]
    assert float(metrics["student/feature_loss"]) == pytest.approx(
        float(feature_loss(*tokens)), rel=1e-3
    )


def test_a_student_of_one_step_has_no_later_ones(world):
    loss = make_student_loss(world.nets, world.config(through=True), jnp.array([1.0, 0.0]))
    state = world.state(optax.sgd(0.1))
    with pytest.raises(InputError, match="no later steps in a student of one step"):
        jax.eval_shape(
            loss, state.student.params, state, world.frozen, world.batch, jax.random.key(0)
        )


@pytest.mark.parametrize("arm", [{"halved": 0.5}, {"level": "interval", "adversarial_weight": 0}])
def test_through_goes_with_the_whole_grid_alone(world, arm):
    with pytest.raises(InputError, match="through=True matches the last sample"):
        world.config(through=True, **arm)


def test_a_fake_score_on_the_students_own_noise_learns_its_lines(world):
    """From pure noise in one step the student's noise is that noise, and its line the target."""
    frozen, seen = world.spanning(0, 1), []

    def spy(params, x, sigma, cond):
        seen.append((x, sigma, cond))
        return world.nets.features(params, x, sigma, cond)

    nets = dataclasses.replace(world.nets, features=spy)
    learned = {"fake": world.init(3), "heads": world.nets.init_heads(jax.random.key(4))}
    key, student = jax.random.key(0), world.init(1)
    losses = {}
    for eta in (0.0, 1.0):
        config = world.config(fake_eta=eta, adversarial_weight=0.0)
        loss = make_critic_loss(nets, config, jnp.array([1.0, 0.0]))
        losses[eta], _ = loss(learned, student, frozen, world.batch, key)
    (x, sigma, cond), (other, same_sigma, _) = seen
    noise = jax.random.normal(jax.random.split(key, 5)[1], x.shape)
    velocity = world.nets.velocity(student, noise, jnp.ones(len(x)), cond)
    level = sigma[:, None, None, None]
    np.testing.assert_allclose(x, noise - (1 - level) * velocity, atol=1e-5)
    np.testing.assert_array_equal(sigma, same_sigma)
    fake = world.nets.velocity(learned["fake"], x, sigma, cond)
    np.testing.assert_allclose(losses[0.0], jnp.mean(trajectory_loss(fake, velocity)), rtol=1e-5)
    assert np.any(x != other) and losses[0.0] != losses[1.0]


def test_an_interval_has_fresh_noise_alone(world):
    with pytest.raises(InputError, match="leave fake_eta at 1"):
        world.config(level="interval", adversarial_weight=0.0, fake_eta=0.5)
