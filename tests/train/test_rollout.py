"""The student's own trajectory and the teacher's segments against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.train.rollout import draw_step, make_teacher_segment, roll_out
from flashjax.types import Cond

SIGMAS = jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])


@pytest.fixture(scope="module")
def conds():
    """Two different conditionings of a batch of three."""
    random = np.random.default_rng(0)
    text, pooled = random.normal(size=(2, 3, 6, 8)), random.normal(size=(2, 3, 8))
    return [Cond(*map(jnp.float32, pair)) for pair in zip(text, pooled, strict=True)]


def test_it_takes_euler_steps_from_first_to_upto(world, conds):
    params, x, (cond, _) = world.init(1), world.batch.latents, conds

    @jax.jit
    def states(first, upto):
        return roll_out(world.nets.velocity, params, x, SIGMAS, cond, first=first, upto=upto)

    def euler(first, upto):
        state = x
        for step in range(first, upto):
            sigma = jnp.full(3, SIGMAS[step])
            distance = SIGMAS[step + 1] - SIGMAS[step]
            state = state + distance * world.nets.velocity(params, state, sigma, cond)
        return state

    for first, upto in [(0, 1), (0, 3), (2, 4), (1, 3)]:
        np.testing.assert_allclose(states(first, upto), euler(first, upto), atol=1e-5)
    np.testing.assert_array_equal(states(2, 2), x)


def test_no_gradient_runs_through_it(world, conds):
    x, (cond, _) = world.batch.latents, conds

    @jax.jit
    @jax.grad
    def gradient(params, upto):
        end = roll_out(world.nets.velocity, params, x, SIGMAS, cond, first=0, upto=upto)
        return jnp.sum(end**2)

    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient(world.init(1), 3)))


def test_a_segment_is_the_guided_teachers_own_substeps(world, conds):
    """Every sample between its own two levels."""
    params, x, (cond, uncond) = world.init(2), world.batch.latents, conds
    start, end = jnp.array([1.0, 0.9, 0.5]), jnp.array([0.9, 0.75, 0.0])
    segment = make_teacher_segment(world.nets.velocity, guidance_scale=2.5, substeps=3)
    got = jax.jit(segment)(params, x, start, end, cond, uncond)
    want = x
    for step in range(3):
        sigma = start + (end - start) * step / 3
        with_text = world.nets.velocity(params, want, sigma, cond)
        without = world.nets.velocity(params, want, sigma, uncond)
        guided = without + 2.5 * (with_text - without)
        want = want + ((end - start) / 3)[:, None, None, None] * guided
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_no_gradient_reaches_the_teacher_through_a_segment(world, conds):
    x, (cond, uncond) = world.batch.latents, conds
    segment = make_teacher_segment(world.nets.velocity, guidance_scale=2.5, substeps=2)
    levels = jnp.full(3, 0.9), jnp.full(3, 0.5)

    @jax.jit
    @jax.grad
    def gradient(teacher):
        return jnp.sum(segment(teacher, x, *levels, cond, uncond) ** 2)

    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient(world.init(2))))


def test_the_share_of_halved_steps_is_the_configured_one():
    draws = jax.vmap(lambda key: draw_step(key, SIGMAS, jnp.array([0, 4]), halved=0.25))
    steps = draws(jax.random.split(jax.random.key(0), 4000))
    two, index = np.asarray(steps.sigmas[:, 1] == SIGMAS[2]), steps.index
    assert abs(two.mean() - 0.25) < 0.03
    assert set(index[two].tolist()) == {0, 1}
    assert set(index[~two].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("span", "double"), [((0, 3), {0, 1}), ((3, 1), set()), ((1, 3), {1}), ((1, 4), {1, 2})]
)
def test_two_steps_at_once_begin_within_the_span_of_their_branch(span, double):
    """One that began a level above would be trained where another branch is."""
    sigmas = jnp.linspace(1.0, 0.0, 7)
    draws = jax.vmap(lambda key: draw_step(key, sigmas, jnp.array(span), halved=0.5))
    steps = draws(jax.random.split(jax.random.key(0), 400))
    two = np.asarray(steps.halved)
    assert set(steps.index[two].tolist()) == double
    assert set(steps.first[two].tolist()) == ({(span[0] + 1) // 2} if double else set())
    assert set(steps.index[~two].tolist()) == set(range(span[0], sum(span)))
