"""Learners: where they start, one update and its average, and updates that do not happen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashjax.train.average import AverageConfig
from flashjax.train.state import SETTLED, Descent, descend, init_state

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
GRADS = {"w": jnp.array([10.0, 20.0]), "b": jnp.array(-1.0)}
SGD = Descent(optax.sgd(0.1, momentum=0.5), AverageConfig(decay=0.9))


def step(learner, grads, descent, loss=1.0):
    """One update of the network "net", whose loss is said among the metrics."""
    metrics = {"net/loss": jnp.float32(loss), "other/loss": jnp.float32("nan")}
    return jax.jit(lambda *args: descend("net", *args, descent))(learner, grads, metrics)


def same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_an_update_then_the_average():
    """ema <- 0.9 ema + 0.1 (the new weights)."""
    descent = Descent(optax.sgd(0.1), AverageConfig(decay=0.9))
    once, told = step(descent.start(PARAMS), GRADS, descent)
    np.testing.assert_allclose(once.params["w"], [0.0, -4.0], atol=1e-6)
    np.testing.assert_allclose(once.params["b"], 3.1, rtol=1e-6)
    np.testing.assert_allclose(once.ema["w"], [0.9, -2.2], rtol=1e-6)
    np.testing.assert_allclose(told["net/grad_norm"], np.sqrt(501), rtol=1e-6)
    twice, _ = step(once, GRADS, descent)
    np.testing.assert_allclose(twice.ema["w"], [0.9 * 0.9 - 0.1, -0.9 * 2.2 - 0.6], rtol=1e-5)


def test_an_average_without_memory_is_the_weights():
    descent = Descent(optax.sgd(0.1), AverageConfig(decay=0.0))
    once, _ = step(descent.start(PARAMS), GRADS, descent)
    same(once.ema, once.params)


def test_a_network_that_hands_on_no_average_has_none():
    once, _ = step(Descent(SGD.tx).start(PARAMS), GRADS, Descent(SGD.tx))
    assert once.ema is None and np.any(once.params["w"] != PARAMS["w"])


def test_a_new_state_starts_at_its_weights_and_may_be_donated():
    """Weights and average are two buffers: donating both of one would fail."""
    descent = Descent(optax.adam(0.1), AverageConfig(decay=0.9))
    state = init_state(jax.tree.map(jnp.copy, PARAMS), descent)
    assert state.step == 0 and state.step.dtype == jnp.int32
    same(state.learner.ema, PARAMS)
    update = jax.jit(lambda l: descend("net", l, GRADS, {}, descent)[0], donate_argnums=0)
    learner = update(state.learner)
    assert learner.opt[0].count == 1 and np.all(learner.params["w"] != learner.ema["w"])


@pytest.mark.parametrize("broken", ["a gradient", "the loss"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_moves_nothing_and_is_counted(broken, value):
    before, _ = step(SGD.start(PARAMS), GRADS, SGD)
    grads, loss = GRADS, 1.0
    if broken == "a gradient":
        grads = GRADS | {"b": jnp.float32(value)}
    else:
        loss = value
    after, told = step(before, grads, SGD, loss)
    for name in ("params", "opt", "ema"):
        same(getattr(after, name), getattr(before, name))
    assert (told["net/skipped"], told["net/skipped_in_row"]) == (1, 1)
    again, told = step(after, grads, SGD, loss)
    assert (told["net/skipped"], told["net/skipped_in_row"]) == (2, 2)
    well, told = step(again, GRADS, SGD)
    straight, _ = step(before, GRADS, SGD)
    assert (told["net/skipped"], told["net/skipped_in_row"]) == (2, 0)
    for name in ("params", "opt", "ema"):
        same(getattr(well, name), getattr(straight, name))
    assert well.tally.updates == straight.tally.updates == 2
    assert well.tally.norm == straight.tally.norm


def test_a_spike_is_skipped_once_the_mean_norm_is_known_and_only_where_it_is_asked_for():
    guarded = Descent(SGD.tx, SGD.average, spike=5.0)
    louder = jax.tree.map(lambda leaf: 6 * leaf, GRADS)
    for descent, skips in ((guarded, 1), (SGD, 0)):
        learner, told = step(descent.start(PARAMS), louder, descent)
        assert told["net/skipped"] == 0  # nothing is known yet
        learner = descent.start(PARAMS)
        for _ in range(SETTLED):
            learner, told = step(learner, GRADS, descent)
        np.testing.assert_allclose(learner.tally.norm, np.sqrt(501), rtol=1e-5)
        after, told = step(learner, louder, descent)
        assert told["net/skipped"] == skips
        assert bool(np.all(after.params["w"] == learner.params["w"])) == bool(skips)
