"""The probe: gradients and figures against the formula, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashjax.models.text import draw_t5_drop, encode_pair
from flashjax.train.probe import agreement, make_probe
from flashjax.types import InputError

SIGMAS = jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])
PLAIN = {"adversarial_weight": 0.0, "trajectory_weight": 0.0, "drop_t5": 0.0}


@pytest.fixture(scope="module")
def probed(world):
    """Two draws of each of two arms at step 1 of one input, and at step 3."""
    frozen = dataclasses.replace(world.frozen, student=None)
    state = world.state(optax.sgd(0.1))
    found = {}
    for name, arm in {"shared": {"level": "next"}, "fresh": {"level": "grid", "eta": 1.0}}.items():
        probe = jax.jit(make_probe(world.nets, world.config(**PLAIN, **arm), SIGMAS))
        for index in (1, 3):
            for draw in (0, 1):
                keys = jax.random.key(5), jax.random.key(draw)
                found[name, index, draw] = probe(state, frozen, world.batch, index, *keys)
    return found


def test_a_shared_point_draws_nothing_and_a_fresh_one_does(probed):
    same = [np.asarray(probed["shared", 1, draw][0]) for draw in (0, 1)]
    np.testing.assert_array_equal(*same)
    other = [np.asarray(probed["fresh", 1, draw][0]) for draw in (0, 1)]
    assert np.abs(other[0] - other[1]).max() > 1e-3
    last = [np.asarray(probed["shared", 3, draw][0]) for draw in (0, 1)]  # it is re-noised
    assert np.abs(last[0] - last[1]).max() > 1e-4


def nothing(x0, teacher_x0, fake_x0, *, floor):
    """A gradient of one's own."""
    del teacher_x0, fake_x0, floor
    return jnp.zeros_like(x0)


def test_a_gradient_of_your_own_is_the_one_that_is_probed(world):
    config = world.config(**PLAIN, gradient=f"{__name__}:nothing")
    probe = jax.jit(make_probe(world.nets, config, SIGMAS))
    frozen = dataclasses.replace(world.frozen, student=None)
    keys = jax.random.key(5), jax.random.key(0)
    gradient, _ = probe(world.state(optax.sgd(0.1)), frozen, world.batch, 1, *keys)
    assert not gradient.any()


def test_what_is_matched_through_all_steps_has_no_gradient_of_each(world):
    with pytest.raises(InputError, match="one gradient through all steps, and none of each"):
        make_probe(world.nets, world.config(**PLAIN, through=True), SIGMAS)


def test_the_gradient_and_figures_are_those_of_the_formula(world, probed):
    """By hand, at step 1 and the next level: velocities, their difference, the chain rule."""
    nets, frozen, params = world.nets, world.frozen, world.init(1)
    noise_key, drop_key, _ = jax.random.split(jax.random.key(5), 3)
    drop = draw_t5_drop(drop_key, 3, 0.0)
    cond, uncond = encode_pair(nets.text, frozen.text, world.batch.tokens, frozen.empty, drop=drop)
    level = lambda value: jnp.full(3, value)
    x = jax.random.normal(noise_key, world.batch.latents.shape)
    x = x - 0.1 * nets.velocity(params, x, level(1.0), cond)

    def student(params):
        v = nets.velocity(params, x, level(0.9), cond)
        return x - 0.9 * v, x + 0.1 * v

    x0, own = student(params)
    point = 0.25 * x0 + 0.75 * own
    told, untold = (nets.velocity(frozen.teacher, point, level(0.75), c) for c in (cond, uncond))
    teacher = untold + 3.0 * (told - untold)
    fake = nets.velocity(world.init(3), point, level(0.75), cond)
    scale = np.abs(x0 - (point - 0.75 * teacher)).mean((1, 2, 3), keepdims=True)
    push = 0.75 * (teacher - fake) / np.maximum(scale, 0.1) / x0.size
    (want,) = jax.vjp(lambda params: student(params)[0], params)[1](jnp.asarray(push))
    got, figures = probed["shared", 1, 0]
    np.testing.assert_allclose(
        got, np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(want)]), rtol=2e-3, atol=1e-6
    )
    assert float(figures["normaliser"]) == pytest.approx(float(scale.mean()), rel=1e-4)
    a, b = (np.reshape(d, (3, -1)) for d in (fake - teacher, untold - told))
    want = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert float(figures["guidance_cosine"]) == pytest.approx(float(want.mean()), abs=1e-3)
    error = float(np.mean((fake - (own - x0)) ** 2))
    assert float(figures["shared_loss"]) == pytest.approx(error, rel=1e-3)


def test_agreement_is_the_cosine_of_two_gradients():
    assert float(agreement(jnp.array([3.0, 0.0]), jnp.array([1.0, 1.0]))) == pytest.approx(0.5**0.5)
