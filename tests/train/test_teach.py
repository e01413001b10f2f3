"""The teacher's step: its gradient, its text encoders, and what dropping captions means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashjax import trees
from flashjax.flow.schedule import SigmaDensity
from flashjax.models.text import encode_text
from flashjax.train.state import Descent, init_state
from flashjax.train.teach import TeachConfig, drop_captions, make_teach_step
from flashjax.types import Tokens

RECORD = Descent(optax.trace(decay=0.0))  # an optimiser whose memory is the last gradient


def teach(world, drop_caption, drop_encoder):
    """A function from a batch to the metrics and the gradient of one step."""
    config = TeachConfig(SigmaDensity(0.2, 0.9, 3.0), drop_caption, drop_encoder)
    step = jax.jit(make_teach_step(world.nets.velocity, world.nets.text, RECORD, config))
    state = init_state({"transformer": world.init(1), "text": world.text_params}, RECORD)

    def run(batch):
        after, metrics = step(state, world.frozen.empty, batch, jax.random.key(0))
        return metrics, after.learner.opt.trace

    return run


@pytest.fixture(scope="module")
def plain(world):
    """Nothing is ever dropped."""
    return teach(world, 0.0, (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def dropping(world):
    """Every caption is replaced by the empty one, and T5 is absent."""
    return teach(world, 1.0, (0.0, 0.0, 1.0))


def test_the_step_regresses_on_noise_minus_data(world, plain):
    """The same draws, written out; gradients of the text encoders too."""
    x0, tokens = world.batch.latents, world.batch.tokens
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 4)
    raw = jax.nn.sigmoid(0.2 + 0.9 * jax.random.normal(keys[2], (3,)))
    sigma = 3 * raw / (1 + 2 * raw)
    noise = jax.random.normal(keys[3], x0.shape)
    wide = sigma[:, None, None, None]

    @jax.jit
    @jax.value_and_grad
    def reference(params):
        cond = encode_text(world.nets.text, params["text"], tokens)
        x = (1 - wide) * x0 + wide * noise
        predicted = world.nets.velocity(params["transformer"], x, sigma, cond)
        return jnp.mean((predicted - noise + x0) ** 2)

    metrics, got = plain(world.batch)
    loss, want = reference({"transformer": world.init(1), "text": world.text_params})
    np.testing.assert_allclose(metrics["teacher/loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["teacher/grad_norm"], optax.tree.norm(want), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)
    assert all(jnp.any(trees.flatten(got["text"][name])["tokens"]) for name in ("clip_l", "t5"))


def test_a_dropped_encoder_gets_no_gradient(world, dropping):
    _, grads = dropping(world.batch)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads["text"]["t5"]))
    assert any(leaf.any() for leaf in jax.tree.leaves(grads["text"]["clip_g"]))


def test_without_captions_the_tokens_do_not_matter(world, plain, dropping):
    other = world.batch.replace(tokens=jax.tree.map(lambda ids: 8 - ids, world.batch.tokens))
    blind, seeing = (
        [float(run(batch)[0]["teacher/loss"]) for batch in (world.batch, other)]
        for run in (dropping, plain)
    )
    assert blind[0] == blind[1] and seeing[0] != seeing[1]


def test_a_caption_is_dropped_from_all_encoders_or_none(key):
    ids = jnp.ones((1000, 3), jnp.int32)
    tokens, empty = Tokens(ids, 2 * ids, 3 * ids), Tokens(*(jnp.zeros((1, 3), jnp.int32),) * 3)
    dropped = drop_captions(key, tokens, empty, 0.2)
    absent = np.all(dropped.clip_l == 0, axis=1)
    np.testing.assert_array_equal(absent, np.all(dropped.clip_g == 0, axis=1))
    np.testing.assert_array_equal(absent, np.all(dropped.t5 == 0, axis=1))
    np.testing.assert_array_equal(dropped.t5[~absent], 3)
    assert 0.15 < absent.mean() < 0.25
