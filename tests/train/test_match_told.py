"""A student that is told of halved steps, against students of one grid with the vector folded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashjax.models.halved import HALF, told, with_half
from flashjax.train.average import AverageConfig
from flashjax.train.match import make_critic_step, make_student_loss, make_student_step
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.probe import make_probe
from flashjax.train.state import Descent

SIGMAS = jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])
# An optimiser that also remembers the last gradient, as `opt[0].trace`.
TX = optax.chain(optax.trace(decay=0.0), make_optimiser(OptimiserConfig(0.01, warmup_steps=1), 10))
STUDENT, CRITIC = Descent(TX, AverageConfig(decay=0.9)), Descent(TX)
ALWAYS, EVEN = {"halved": 1.0, "shared_share": 0.0}, {"halved": 0.5, "shared_share": 0.0}


def same(got, want, **tolerance):
    """Every leaf, to the last bit unless a tolerance is given."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


def with_vector(params, seed):
    """A student whose vector is no longer zero."""
    vector = jax.random.normal(jax.random.key(seed), params["time_2"]["bias"].shape)
    return params | {HALF: {"bias": vector}}


@pytest.fixture(scope="module")
def state(world):
    """Student, fake score and heads; the student has a vector that is not zero."""
    state = world.state(TX)
    return state.replace(student=STUDENT.start(with_vector(state.student.params, 1)))


def folded(state, *, halved):
    """The same, of a plain student for one grid."""
    return state.replace(student=STUDENT.start(told(state.student.params, halved)))


def spanning(world, first, number, seed=2):
    """The frozen parts of a branch, whose frozen student has a vector of its own."""
    frozen = world.spanning(first, number)
    return frozen.replace(student=with_vector(frozen.student, seed))


def key_of_coin(halved, share):
    """A key whose first step draws a batch of that grid."""
    for seed in range(100):
        key = jax.random.key(seed)
        step_key = jax.random.split(jax.random.fold_in(key, 0), 5)[0]
        if jax.random.bernoulli(jax.random.fold_in(step_key, 1), share) == halved:
            return key
    raise AssertionError("no key draws this grid")


def make_student(world, sigmas, **arm):
    return jax.jit(make_student_step(world.nets, STUDENT, world.config(**arm), sigmas))


def make_critic(world, sigmas, **arm):
    return jax.jit(make_critic_step(world.nets, CRITIC, CRITIC, world.config(**arm), sigmas))


@pytest.mark.parametrize("halved", [False, True])
def test_at_first_a_told_student_is_the_untold_one_bit_for_bit(world, halved):
    untold, key = world.state(TX), key_of_coin(halved, 0.5)
    params = untold.student.params
    assert HALF in with_half(params)
    loss = make_student_loss(world.nets, world.config(**EVEN), SIGMAS)
    key = jax.random.fold_in(key, 0)
    args = untold, world.spanning(0, 4), world.batch, key
    same(loss(with_half(params), *args), loss(params, *args))


@pytest.mark.parametrize(("first", "seed"), [(0, 0), (0, 1), (2, 0)])
def test_on_half_the_grid_student_and_critic_see_the_vector_folded_in(world, state, first, seed):
    """Of both branches; the frozen student's steps before the second have its own vector."""
    key, frozen = jax.random.key(seed), spanning(world, first, 2)
    short = world.spanning(first // 2, 1)
    short = short.replace(student=told(frozen.student, halved=True))
    plain = folded(state, halved=True)

    after, metrics = make_student(world, SIGMAS, **ALWAYS)(state, frozen, world.batch, key)
    student = make_student(world, SIGMAS[::2], shared_share=0.0)
    want, same_metrics = student(plain, short, world.batch, key)
    got = dict(after.student.opt[0].trace)
    vector = got.pop(HALF)["bias"]
    same(got, want.student.opt[0].trace, rtol=1e-4, atol=1e-6)
    same(vector, got["time_2"]["bias"], rtol=1e-5)
    figures = set(metrics) - {"student/grad_norm"}  # that is of one vector more
    same({f: metrics[f] for f in figures}, {f: same_metrics[f] for f in figures}, rtol=1e-5)

    after, metrics = make_critic(world, SIGMAS, **ALWAYS)(state, frozen, world.batch, key)
    critic = make_critic(world, SIGMAS[::2], shared_share=0.0)
    want, same_metrics = critic(plain, short, world.batch, key)
    same(metrics, same_metrics, rtol=1e-5)
    same(after.fake.opt[0].trace, want.fake.opt[0].trace, rtol=1e-4, atol=1e-6)


def test_on_the_whole_grid_there_is_no_vector(world, state):
    key, frozen = key_of_coin(False, 0.5), spanning(world, 0, 4)
    plain, before = folded(state, halved=False), world.spanning(0, 4)
    for make, learner in ((make_student, "student"), (make_critic, "fake")):
        after, metrics = make(world, SIGMAS, **EVEN)(state, frozen, world.batch, key)
        want, same_metrics = make(world, SIGMAS, shared_share=0.0)(plain, before, world.batch, key)
        got = dict(getattr(after, learner).opt[0].trace)
        assert not got.pop(HALF, {"bias": np.zeros(1)})["bias"].any()
        same(got, getattr(want, learner).opt[0].trace, rtol=1e-4, atol=1e-6)
        same(metrics, same_metrics, rtol=1e-5)


@pytest.mark.parametrize("halved", [False, True])
def test_the_vector_moves_on_half_the_grid_alone(world, halved):
    state = world.state(TX)
    state = state.replace(student=STUDENT.start(with_half(state.student.params)))
    step = make_student(world, SIGMAS, **EVEN, told=True)
    key = key_of_coin(halved, 0.5)
    for _ in range(2):  # at the first step the rate is 0
        state, _ = step(state.replace(step=jnp.int32(0)), world.frozen, world.batch, key)
    student = state.student
    assert np.any(student.params["inner"] != world.init(1)["inner"])
    assert bool(student.params[HALF]["bias"].any()) is halved
    assert bool(student.ema[HALF]["bias"].any()) is halved


def test_the_fake_score_is_pulled_towards_the_network_alone(world, state):
    after, _ = make_student(world, SIGMAS, **EVEN)(
        state, world.frozen, world.batch, key_of_coin(False, 0.5)
    )
    network = {k: v for k, v in after.student.params.items() if k != HALF}
    want = jax.tree.map(lambda f, s: 0.75 * f + 0.25 * s, state.fake.params, network)
    same(after.fake.params, want, atol=1e-6)


def test_a_probe_looks_at_the_whole_grid(world, state):
    config = world.config(halved=0.5, told=True, adversarial_weight=0.0, trajectory_weight=0.0)
    probe = make_probe(world.nets, config, SIGMAS)
    frozen = dataclasses.replace(world.frozen, student=None)
    keys = jax.random.key(5), jax.random.key(0)
    gradient, _ = probe(state, frozen, world.batch, 1, *keys)
    want, _ = probe(folded(state, halved=False), frozen, world.batch, 1, *keys)
    assert len(gradient) == len(want) + len(state.student.params[HALF]["bias"])
    np.testing.assert_allclose(jnp.linalg.norm(gradient), jnp.linalg.norm(want), rtol=1e-5)
