"""The probe: gradients against those of the student's step, statistics against a known law."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashjax.models.text import draw_t5_drop, encode_pair
from flashjax.train.probe import Drawn, collect, cosine, make_probe, signal

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


@pytest.fixture(scope="module")
def known():
    """Gradients of a known law: mean 2 in one of 50 dims, inputs' variance 1, draws' 3 in each."""
    random = np.random.default_rng(0)
    inputs = 300
    offsets = random.normal(size=(inputs, 50))
    offsets[:, 0] += 2.0
    noise = np.sqrt(3.0) * random.normal(size=(inputs, 4, 50))
    return collect(lambda k, d: offsets[k] + noise[k, d], inputs, 4), offsets


def test_signal_and_noise_are_those_of_the_law(known):
    found = signal(known[0])
    for name, want in {"snr": 4 / 200, "snr_of_draws": 4 / 150, "noise_share": 0.75}.items():
        value, half = found[name]
        assert value == pytest.approx(want, rel=0.25) and abs(value - want) < 2 * half


def test_the_cosine_of_means_is_not_drowned_by_noise(known):
    """Two arms with the same inputs; the other's mean lies at 60 degrees."""
    drawn, offsets = known
    turn = np.zeros(50)
    turn[:2] = -1.0, np.sqrt(3.0)
    other = Drawn((offsets + turn).astype(np.float32), drawn.within, 4)
    value, half = cosine(drawn, other)
    assert value == pytest.approx(0.5, abs=0.1) and half < 0.2


def test_one_draw_has_no_variance():
    with pytest.raises(ValueError, match="need two of each"):
        collect(lambda k, d: np.zeros(2), 3, 1)
