"""Learners: where they start, and the arithmetic of one update and its average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flashjax.train.state import descend, init_learner, init_state

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
GRADS = {"w": jnp.array([10.0, 20.0]), "b": jnp.array(-1.0)}


def test_an_update_then_the_average():
    """ema <- 0.9 ema + 0.1 (the new weights)."""
    tx = optax.sgd(0.1)
    once = descend(init_learner(PARAMS, tx), GRADS, tx, ema_decay=0.9)
    np.testing.assert_allclose(once.params["w"], [0.0, -4.0], atol=1e-6)
    np.testing.assert_allclose(once.params["b"], 3.1, rtol=1e-6)
    np.testing.assert_allclose(once.ema["w"], [0.9, -2.2], rtol=1e-6)
    twice = descend(once, GRADS, tx, ema_decay=0.9)
    np.testing.assert_allclose(twice.ema["w"], [0.9 * 0.9 - 0.1, -0.9 * 2.2 - 0.6], rtol=1e-5)


def test_an_average_without_memory_is_the_weights():
    tx = optax.sgd(0.1)
    once = descend(init_learner(PARAMS, tx), GRADS, tx, ema_decay=0.0)
    jax.tree.map(np.testing.assert_array_equal, once.ema, once.params)


def test_a_new_state_starts_at_its_weights_and_may_be_donated():
    """Weights and average are two buffers: donating both of one would fail."""
    tx = optax.adam(0.1)
    state = init_state(jax.tree.map(jnp.copy, PARAMS), tx)
    assert state.step == 0 and state.step.dtype == jnp.int32
    jax.tree.map(np.testing.assert_array_equal, state.learner.ema, PARAMS)
    update = jax.jit(lambda l: descend(l, GRADS, tx, ema_decay=0.9), donate_argnums=0)
    learner = update(state.learner)
    assert learner.opt[0].count == 1 and np.all(learner.params["w"] != learner.ema["w"])
