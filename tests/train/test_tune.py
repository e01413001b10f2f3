"""Fine-tuning on a grid, on a velocity that a person can follow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flashjax.train.state import Descent, init_state
from flashjax.train.tune import make_tune_step
from flashjax.types import Cond

SIGMAS = (1.0, 0.5, 0.0)


def velocity(params, x, sigma, cond):
    """Two weights do the work of one: rounded to halves, they can only make it up together."""
    del cond
    a, b = params["a"], params["b"]
    return (a + b) * x + sigma[:, None, None, None]


def rounded(params):
    return jax.tree.map(lambda w: jnp.round(2 * w) / 2, params)


def test_rounded_weights_learn_to_make_up_for_each_other() -> None:
    teacher = {"a": jnp.float32(0.7), "b": jnp.float32(0.7)}  # 1.4, rounds to 0.5 + 0.5
    tx = Descent(optax.sgd(0.05))
    step = jax.jit(make_tune_step(velocity, tx, SIGMAS))
    state = init_state(teacher | {"a": jnp.float32(0.72)}, tx)
    cond = Cond(jnp.zeros((4, 1, 1)), jnp.zeros((4, 1)))
    losses = []
    for number in range(40):
        noise = jax.random.normal(jax.random.key(number), (4, 2, 2, 1))
        params = rounded(state.learner.params)
        state, metrics = step(state, params, teacher, noise, cond)
        losses.append(float(metrics["student/loss"]))
    end = rounded(state.learner.params)
    assert float(end["a"] + end["b"]) == 1.5
    assert min(losses) < 0.1 * losses[0]


def test_the_loss_is_the_mean_over_the_teachers_own_steps() -> None:
    teacher = {"a": jnp.float32(0.5), "b": jnp.float32(0.0)}
    other = {"a": jnp.float32(0.5), "b": jnp.float32(0.5)}
    tx = Descent(optax.sgd(0.0))
    step = make_tune_step(velocity, tx, SIGMAS)
    noise = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
    cond = Cond(jnp.zeros((3, 1, 1)), jnp.zeros((3, 1)))
    _, metrics = step(init_state(other, tx), other, teacher, noise, cond)
    second = noise - 0.5 * (0.5 * noise + 1.0)
    expected = np.mean([np.mean((0.5 * x) ** 2) for x in (noise, second)])
    np.testing.assert_allclose(metrics["student/loss"], expected, rtol=1e-6)
