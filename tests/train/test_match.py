"""Distribution matching: the matching point, and both steps against a reference by hand.

The reference is written from the published pseudo-code with the same random keys; it shares only
the networks and the text encoders with the code under test.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.lax import stop_gradient as stop

from flashjax.checkpoint import Checkpoints
from flashjax.models.text import draw_t5_drop, encode_pair
from flashjax.train.arms import matching_point
from flashjax.train.average import AverageConfig
from flashjax.train.match import (
    make_critic_step,
    make_student_loss,
    make_student_step,
    redraw_heads,
)
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.rollout import StudentStep
from flashjax.train.state import Descent
from flashjax.types import InputError

GRID = (1.0, 0.9, 0.75, 0.5, 0.0)
SIGMAS = jnp.array(GRID)
# An optimiser that also remembers the last gradient, as `opt[0].trace`.
TX = optax.chain(optax.trace(decay=0.0), make_optimiser(OptimiserConfig(0.01, warmup_steps=2), 10))
STUDENT, CRITIC = Descent(TX, AverageConfig(decay=0.9)), Descent(TX)


def same(got, want, **tolerance):
    """Every leaf, to the last bit unless a tolerance is given."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


def wide(sigma):
    return sigma[:, None, None, None]


# --- the matching point ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def line():
    """The student's state and velocity: 64 samples."""
    x, velocity = jax.random.normal(jax.random.key(1), (2, 64, 2, 2, 3))
    return x, velocity


# By eta: DMD2 noises anew at a uniform level.
ARMS = {0.0: {"eta": 0.0}, 1.0: {"eta": 1.0, "level": "uniform"}}


def point(world, line, index, key, **arm):
    """The matching point of the line's samples at step `index`."""
    x, velocity = line
    x0, noise = x - GRID[index] * velocity, x + (1 - GRID[index]) * velocity
    find = jax.jit(lambda *args: matching_point(*args, key, world.config(**arm)))
    return x0, *find(x0, noise, StudentStep(SIGMAS, jnp.int32(index), jnp.int32(0)))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_shared_point_lies_on_the_students_line_at_a_later_level(world, line, key, index):
    x, velocity = line
    _, got, sigma = point(world, line, index, key)
    assert set(np.asarray(sigma).tolist()) == {np.float32(level) for level in GRID[index + 1 : -1]}
    np.testing.assert_allclose(got, x + wide(sigma - GRID[index]) * velocity, atol=2e-6)


def test_the_last_step_is_re_noised(world, line, key):
    """It has no later level: its levels are uniform and its noise is not the student's."""
    x0, got, sigma = point(world, line, 3, key)
    assert 0.02 <= sigma.min() < 0.15 and 0.85 < sigma.max() <= 0.98
    noise = (got - wide(1 - sigma) * x0) / wide(sigma)
    assert abs(np.corrcoef(noise.ravel(), (line[0] + 0.5 * line[1]).ravel())[0, 1]) < 0.15
    assert 0.9 < np.std(noise) < 1.1


@pytest.mark.parametrize("index", [0, 3])
def test_eta_1_is_the_re_noising_of_dmd2(world, line, key, index):
    x0, got, sigma = point(world, line, index, key, **ARMS[1.0])
    _, level_key, noise_key = jax.random.split(key, 3)
    level = 0.02 + 0.96 * jax.random.uniform(level_key, (64,))
    noise = jax.random.normal(noise_key, x0.shape)
    np.testing.assert_allclose(sigma, level, atol=1e-6)
    np.testing.assert_allclose(got, wide(1 - level) * x0 + wide(level) * noise, atol=1e-5)


def test_between_both_ends_the_point_leaves_the_line_by_fresh_noise(world, line, key):
    x, velocity = line
    _, got, sigma = point(world, line, 0, key, eta=0.5)
    fresh = jax.random.normal(jax.random.split(key, 3)[2], x.shape)
    x0, noise = x - velocity, x
    want = wide(1 - sigma) * x0 + wide(sigma) * np.sqrt(0.5) * (noise + fresh)
    np.testing.assert_allclose(got, want, atol=1e-5)


# --- the reference --------------------------------------------------------------------------------


def reference_conds(world, frozen, key):
    drop = draw_t5_drop(key, 3, 0.5)
    encode = jax.jit(encode_pair, static_argnums=0)
    return encode(world.nets.text, frozen.text, world.batch.tokens, frozen.empty, drop=drop)


def reference_input(world, frozen, student, cond, key, index, first):
    """Noise, then Euler steps: the frozen student's before step `first`, then the student's."""
    x = jax.random.normal(key, world.batch.latents.shape)
    for k in range(index):
        params = frozen.student if k < first else student
        v = world.nets.velocity(params, x, jnp.full(3, GRID[k]), cond)
        x = x + (GRID[k + 1] - GRID[k]) * v
    return stop(x)


def reference_levels(key):
    """Logit-normal levels (mean .3, shift 3), a quarter of them at the grid's."""
    spread_key, grid_key, share_key = jax.random.split(key, 3)
    raw = jax.nn.sigmoid(0.3 + jax.random.normal(spread_key, (3,)))
    grid = jax.random.choice(grid_key, SIGMAS[1:4], (3,))
    return jnp.where(jax.random.uniform(share_key, (3,)) < 0.25, grid, 3 * raw / (1 + 2 * raw))


def reference_losses(student, world, frozen, state, key, *, index, first, eta):
    """Matching, adversarial and trajectory loss of the student (guidance 3, two sub-steps)."""
    _, noise_key, match_key, deceive_key, drop_key = jax.random.split(key, 5)
    cond, uncond = reference_conds(world, frozen, drop_key)
    net, fake, t = world.nets.velocity, state.fake.params, GRID[index]

    def teacher(x, s):
        without = net(frozen.teacher, x, s, uncond)
        return without + 3.0 * (net(frozen.teacher, x, s, cond) - without)

    x = reference_input(world, frozen, student, cond, noise_key, index, first)
    v = net(student, x, jnp.full(3, t), cond)
    x0, eps = x - t * v, x + (1 - t) * v

    level_key, uniform_key, fresh_key = jax.random.split(match_key, 3)
    if eta == 0 and index < 3:
        later = index + 1 + jnp.floor(jax.random.uniform(level_key, (3,)) * (3 - index))
        s, noise = SIGMAS[later.astype(int)], eps
    else:
        s = 0.02 + 0.96 * jax.random.uniform(uniform_key, (3,))
        noise = jax.random.normal(fresh_key, x.shape)
    xs = stop((1 - wide(s)) * x0 + wide(s) * noise)
    real = xs - wide(s) * teacher(xs, s)
    faked = xs - wide(s) * net(fake, xs, s, cond)
    size = jnp.abs(x0 - real).mean(axis=(1, 2, 3), keepdims=True).clip(0.1)
    target = stop(x0 - (faked - real) / size)
    matching = 0.5 * ((x0 - target) ** 2).mean()

    level_key, fresh_key = jax.random.split(deceive_key)
    s = reference_levels(level_key)
    xs = (1 - wide(s)) * x0 + wide(s) * jax.random.normal(fresh_key, x.shape)
    tapped = world.nets.features(fake, xs, s, cond)[1]
    logits = world.nets.heads(state.heads.params, tapped, height=xs.shape[1])
    adversarial = jnp.log1p(jnp.exp(-logits)).mean()

    half = (GRID[index + 1] - t) / 2
    y = x + half * teacher(x, jnp.full(3, t))
    y = y + half * teacher(y, jnp.full(3, t + half))
    trajectory = ((v - stop((y - x) / (2 * half))) ** 2).mean()
    return matching, adversarial, trajectory


def key_of_step(index):
    """A key with which a student of four steps draws step `index`."""
    for seed in range(100):
        key = jax.random.key(seed)
        first = jax.random.split(jax.random.fold_in(key, 0), 5)[0]
        if jax.random.randint(first, (), 0, 4) == index:
            return key
    raise AssertionError("no key draws this step")


@pytest.fixture(scope="module")
def student_steps(world):
    """The compiled student step for both ends of the dial."""
    return {
        eta: jax.jit(make_student_step(world.nets, STUDENT, world.config(**ARMS[eta]), SIGMAS))
        for eta in ARMS
    }


CASES = [
    # eta, step, the branch's first step and number of steps; eta 1 runs without a frozen student
    (0.0, 0, 0, 4),
    (0.0, 2, 0, 4),
    (0.0, 3, 0, 4),
    (0.0, 2, 2, 1),
    (1.0, 1, 0, 4),
]


@pytest.mark.parametrize(("eta", "index", "first", "number"), CASES)
def test_the_student_step_is_the_reference(world, student_steps, eta, index, first, number):
    """Loss terms and gradient; heads and the fake score's optimiser stay as they were."""
    state, frozen, key = world.state(TX), world.spanning(first, number), key_of_step(index)
    frozen = frozen.replace(student=None) if eta else frozen

    @jax.jit
    def reference(params):
        key_now = jax.random.fold_in(key, 0)

        def loss(params):
            terms = reference_losses(
                params, world, frozen, state, key_now, index=index, first=first, eta=eta
            )
            return terms[0] + 0.5 * terms[1] + 0.3 * terms[2], terms

        return jax.grad(loss, has_aux=True)(params)

    after, metrics = student_steps[eta](state, frozen, world.batch, key)
    gradient, terms = reference(state.student.params)
    for name, term in zip(("matching", "adversarial", "trajectory"), terms, strict=True):
        np.testing.assert_allclose(metrics[f"student/{name}_loss"], term, rtol=1e-4, err_msg=name)
    same(after.student.opt[0].trace, gradient, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["student/grad_norm"], optax.tree.norm(gradient), rtol=1e-4)
    assert after.step == 1
    same(after.heads, state.heads)
    same(after.fake.opt, state.fake.opt)


def test_a_halved_step_is_the_step_of_a_student_with_half_as_many_steps(world):
    """Of both branches: on every other level of the grid, with the frozen student's first half."""
    state = world.state(TX)
    halved = jax.jit(
        make_student_step(world.nets, STUDENT, world.config(halved=1.0, shared_share=0.0), SIGMAS)
    )
    short = jax.jit(
        make_student_step(world.nets, STUDENT, world.config(shared_share=0.0), SIGMAS[::2])
    )
    for first, key in ((0, key_of_step(1)), (2, key_of_step(0))):
        after, metrics = halved(state, world.spanning(first, 2), world.batch, key)
        want, same_metrics = short(state, world.spanning(first // 2, 1), world.batch, key)
        same(metrics, same_metrics, rtol=1e-5)
        same(after.student.opt[0].trace, want.student.opt[0].trace, rtol=1e-4, atol=1e-6)


def test_no_gradient_reaches_teacher_and_fake_score(world, student_steps):
    state, key = world.state(TX), key_of_step(1)

    @jax.jit
    @jax.grad
    def gradient(others):
        before = state.replace(fake=state.fake.replace(params=others["fake"]))
        frozen = world.frozen.replace(teacher=others["teacher"])
        _, metrics = student_steps[0.0](before, frozen, world.batch, key)
        return metrics["student/matching_loss"] + metrics["student/trajectory_loss"]

    got = gradient({"fake": state.fake.params, "teacher": world.frozen.teacher})
    assert not any(leaf.any() for leaf in jax.tree.leaves(got))


def test_the_fake_score_is_pulled_towards_the_new_student(world, student_steps):
    """And the average follows the new student; the second step is the first that moves it."""
    before = world.state(TX)
    for _ in range(2):
        state = before
        before, _ = student_steps[0.0](state, world.frozen, world.batch, jax.random.key(0))
    student, fake = before.student, before.fake
    assert np.any(student.params["inner"] != state.student.params["inner"])
    want = jax.tree.map(lambda f, s: 0.75 * f + 0.25 * s, state.fake.params, student.params)
    same(fake.params, want, atol=1e-6)
    want = jax.tree.map(lambda e, s: 0.9 * e + 0.1 * s, state.student.ema, student.params)
    same(student.ema, want, atol=1e-6)


def test_a_loss_of_weight_0_is_not_computed(world):
    config = world.config(adversarial_weight=0.0, trajectory_weight=0.0)
    args = world.state(TX), world.frozen, world.batch, jax.random.key(0)
    student = make_student_step(world.nets, STUDENT, config, SIGMAS)
    critic = make_critic_step(world.nets, CRITIC, CRITIC, config, SIGMAS)
    metrics = jax.eval_shape(student, *args)[1] | jax.eval_shape(critic, *args)[1]
    assert {name for name in metrics if name.endswith("loss")} == {
        "student/matching_loss",
        "fake/loss",
    }


def test_without_matching_the_student_learns_the_trajectory_alone(world):
    """The control of an ablation: its gradient is that of the trajectory loss, and no other."""
    config = world.config(matching_weight=0.0, adversarial_weight=0.0, trajectory_weight=0.5)
    state, key = world.state(TX), jax.random.key(0)
    loss = make_student_loss(world.nets, config, SIGMAS)
    args = state, world.frozen, world.batch, key
    value, metrics = loss(state.student.params, *args)
    assert {name for name in metrics if name.endswith("loss")} == {"student/trajectory_loss"}
    np.testing.assert_allclose(value, 0.5 * metrics["student/trajectory_loss"], rtol=1e-6)
    both = world.config(adversarial_weight=0.0, trajectory_weight=0.5)
    whole, more = make_student_loss(world.nets, both, SIGMAS)(state.student.params, *args)
    np.testing.assert_allclose(whole - more["student/matching_loss"], value, rtol=1e-5)


def test_a_student_without_any_loss_is_refused(world):
    with pytest.raises(InputError, match="no loss is left"):
        world.config(matching_weight=0.0, adversarial_weight=0.0, trajectory_weight=0.0)


# --- the critic -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def critic_step(world):
    """The compiled critic step."""
    return jax.jit(make_critic_step(world.nets, CRITIC, CRITIC, world.config(), SIGMAS))


def test_the_critic_step_is_the_reference(world, critic_step):
    """Fresh-noise flow matching for the fake score, softplus for the heads; the student stays."""
    state, key = world.state(TX), key_of_step(2)
    x0_real, net = world.batch.latents, world.nets

    @jax.jit
    def reference(fake, heads):
        keys = jax.random.split(jax.random.fold_in(key, 0), 5)
        cond, _ = reference_conds(world, world.frozen, keys[4])
        student = state.student.params
        x = reference_input(world, world.frozen, student, cond, keys[1], 2, 0)
        x0 = x - 0.75 * net.velocity(student, x, jnp.full(3, 0.75), cond)

        level_key, fresh_key = jax.random.split(keys[2])
        s = wide(reference_levels(level_key))
        noise = jax.random.normal(fresh_key, x0.shape)

        def fake_loss(fake):
            v = net.velocity(fake, (1 - s) * x0 + s * noise, s.ravel(), cond)
            return ((v - noise + x0) ** 2).mean()

        def heads_loss(heads):
            tapped = [
                net.features(fake, (1 - s) * y + s * noise, s.ravel(), cond)[1]
                for y in (x0, x0_real)
            ]
            on = [net.heads(heads, tokens, height=x0.shape[1]) for tokens in tapped]
            return jnp.log1p(jnp.exp(on[0])).mean() + jnp.log1p(jnp.exp(-on[1])).mean()

        return jax.value_and_grad(fake_loss)(fake), jax.value_and_grad(heads_loss)(heads)

    after, metrics = critic_step(state, world.frozen, world.batch, key)
    fake, heads = reference(state.fake.params, state.heads.params)
    for name, (loss, grads) in {"fake": fake, "heads": heads}.items():
        np.testing.assert_allclose(metrics[f"{name}/loss"], loss, rtol=1e-4, err_msg=name)
        same(getattr(after, name).opt[0].trace, grads, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["fake/grad_norm"], optax.tree.norm(fake[1]), rtol=1e-4)
    assert after.step == 1
    same(after.student, state.student)


def test_the_heads_do_not_move_the_fake_score(world, critic_step):
    state, key = world.state(TX), jax.random.key(0)
    louder = jax.tree.map(lambda leaf: 100 * leaf, state.heads.params)
    other = state.replace(heads=state.heads.replace(params=louder))
    (one, quiet), (two, loud) = (
        critic_step(s, world.frozen, world.batch, key) for s in (state, other)
    )
    same(one.fake, two.fake)
    assert quiet["heads/loss"] != loud["heads/loss"]


@pytest.mark.parametrize("target", ["unbiased", "sample"])
def test_on_an_interval_the_fake_score_learns_its_target_from_the_next_state(world, target):
    """At step 2 of four: the student's state at .5, noised on; no heads. "sample" is TDM's."""
    state, key, net = world.state(TX), key_of_step(2), world.nets
    arm = {"level": "interval", "interval_target": target}
    config = world.config(**arm, adversarial_weight=0.0, trajectory_weight=0.0)
    step = jax.jit(make_critic_step(net, CRITIC, CRITIC, config, SIGMAS))

    @jax.jit
    @jax.value_and_grad
    def reference(fake):
        keys = jax.random.split(jax.random.fold_in(key, 0), 5)
        cond, _ = reference_conds(world, world.frozen, keys[4])
        student = state.student.params
        x = reference_input(world, world.frozen, student, cond, keys[1], 2, 0)
        own = net.velocity(student, x, jnp.full(3, 0.75), cond)
        start = x - 0.25 * own
        level_key, fresh_key = jax.random.split(keys[2])
        t = 0.5 + 0.48 * jnp.maximum(jax.random.uniform(level_key, (3,)), 1e-3)
        noise = jax.random.normal(fresh_key, x.shape)
        a, s = wide(2 * (1 - t)), wide(jnp.sqrt(t**2 - (1 - t) ** 2))
        y = a * start + s * noise
        want = {
            "unbiased": -2 * start + (wide(t) + wide(1 - t)) / s * noise,
            "sample": (y - (x - 0.75 * own)) / wide(t),
        }
        v = net.velocity(fake, y, t, cond)
        weight = jnp.minimum(1 / s.ravel() ** 2, 10)
        return jnp.mean(weight * jnp.mean((v - want[target]) ** 2, axis=(1, 2, 3)))

    after, metrics = step(state, world.frozen, world.batch, key)
    loss, grads = reference(state.fake.params)
    np.testing.assert_allclose(metrics["fake/loss"], loss, rtol=1e-4)
    same(after.fake.opt[0].trace, grads, rtol=1e-3, atol=1e-4)


def test_the_heads_gradient_reaches_the_fake_score_with_its_weight(world, critic_step):
    """What a gradient of full weight adds to the fake score's own, times the weight."""
    state, key, reach = world.state(TX), jax.random.key(3), 0.01
    gradient = {}
    for weight in (1.0, reach):
        config = world.config(heads_reach=weight)
        step = jax.jit(make_critic_step(world.nets, CRITIC, CRITIC, config, SIGMAS))
        after, metrics = step(state, world.frozen, world.batch, key)
        gradient[weight] = after.fake.opt[0].trace
    stopped, plain = critic_step(state, world.frozen, world.batch, key)
    own = stopped.fake.opt[0].trace
    added = jax.tree.map(lambda full, own: full - own, gradient[1.0], own)
    assert np.abs(added["inner"]).max() > 1e-2
    want = jax.tree.map(lambda own, more: own + reach * more, own, added)
    same(gradient[reach], want, rtol=1e-3, atol=1e-5)
    same(after.heads, stopped.heads, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["heads/loss"], plain["heads/loss"], rtol=1e-6)


def test_without_pull_the_fake_score_is_left_to_its_own_training(world):
    state = world.state(TX)
    config = world.config(fake_pull=0.0, adversarial_weight=0.0, trajectory_weight=0.0)
    step = jax.jit(make_student_step(world.nets, STUDENT, config, SIGMAS))
    after, _ = step(state, world.frozen, world.batch, jax.random.key(0))
    same(after.fake, state.fake)


# --- a batch in parts -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_student_step, make_critic_step])
def test_a_batch_in_parts_gives_the_numbers_of_the_whole(world, key, monkeypatch, make):
    """Every sample's random numbers are made the same, so that only its own pixels and words tell
    it from the others."""

    def noise(key, shape=(), dtype=jnp.float32):
        pattern = jnp.sin(jnp.arange(shape[-1], dtype=dtype)) if shape[1:] else dtype(0.3)
        return jnp.broadcast_to(pattern, shape)

    monkeypatch.setattr(jax.random, "normal", noise)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape=(), **_: jnp.full(shape, 0.4))
    monkeypatch.setattr(jax.random, "bernoulli", lambda key, p, shape=(): jnp.zeros(shape, bool))
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.int32(1))
    monkeypatch.setattr(jax.random, "choice", lambda key, a, shape: jnp.full(shape, a[0]))
    optimisers = (STUDENT,) if make is make_student_step else (CRITIC, CRITIC)
    args = world.state(TX), world.frozen, world.batch, key
    steps = [make(world.nets, *optimisers, world.config(parts=n), SIGMAS) for n in (1, 3)]
    (whole, said), (parts, told) = (jax.jit(step)(*args) for step in steps)
    same(parts, whole, rtol=1e-4, atol=1e-6)
    same(told, said, rtol=1e-4)


# --- re-drawn heads -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def used_heads(world):
    """Heads with an optimiser's memory."""
    tx = make_optimiser(OptimiserConfig(0.1), 10, pooled=True)
    heads = Descent(tx).start(world.nets.init_heads(jax.random.key(4)))
    _, opt = tx.update(heads.params, heads.opt, heads.params)
    return heads.replace(opt=opt)


def test_heads_are_never_redrawn_with_probability_0(world, used_heads, key):
    same(redraw_heads(used_heads, world.nets.init_heads, 0.0, key), used_heads)


def test_heads_redrawn_with_probability_1_have_no_past(world, used_heads, key):
    got = redraw_heads(used_heads, world.nets.init_heads, 1.0, key)
    fresh = world.nets.init_heads(jax.random.split(key)[1])
    same(got.params, fresh)
    for new, old in zip(jax.tree.leaves(got.opt), jax.tree.leaves(used_heads.opt), strict=True):
        assert old.any() and (not new.any() if new.ndim else new == old)


def test_the_first_steps_of_a_redrawn_head_are_those_of_a_new_one(world):
    """Its count is its own: no step exceeds the rate, and the other head's are as they were."""
    tx = make_optimiser(OptimiserConfig(0.1, clip_norm=1e9), 1000, pooled=True)
    heads = Descent(tx).start(world.nets.init_heads(jax.random.key(4)))
    update = jax.jit(tx.update)
    grads = [jax.tree.map(lambda x, n=n: 1.5 + jnp.sin(n + x), heads.params) for n in range(40)]
    for grad in grads[:30]:
        _, opt = update(grad, heads.opt, heads.params)
        heads = heads.replace(opt=opt)
    anew = jax.tree.map(
        lambda leaf: leaf.at[1].set(0) if leaf.ndim and len(leaf) == 2 else leaf, heads.opt
    )
    drawn = [
        jax.random.bernoulli(jax.random.split(jax.random.key(n))[0], 0.5, (2,)) for n in range(9)
    ]
    number = [found.tolist() for found in drawn].index([False, True])
    got = redraw_heads(heads, world.nets.init_heads, 0.5, jax.random.key(number))
    same(got.opt, anew)
    fresh, old, new = tx.init(heads.params), heads.opt, got.opt
    for grad in grads[30:]:
        (a, fresh), (b, old), (c, new) = (update(grad, o, heads.params) for o in (fresh, old, new))
        kernels = [u["pool"]["kernel"] for u in (a, b, c)]
        np.testing.assert_array_equal(kernels[2][1], kernels[0][1])
        np.testing.assert_array_equal(kernels[2][0], kernels[1][0])
        assert np.abs(kernels[2]).max() < 0.11


def test_a_head_is_redrawn_whole_or_not_at_all(world, used_heads):
    """With two heads and an even chance, some key redraws exactly one of them."""
    redraw = jax.jit(lambda key: redraw_heads(used_heads, world.nets.init_heads, 0.5, key))
    seen = set()
    for seed in range(16):
        got = redraw(jax.random.key(seed))
        leaves = zip(jax.tree.leaves(got), jax.tree.leaves(used_heads), strict=True)
        changed = {
            tuple(np.any(new != old, axis=tuple(range(1, new.ndim))).tolist())
            for new, old in leaves
            if new.ndim
        }
        assert len(changed) == 1
        seen |= changed
    assert seen == {(a, b) for a in (False, True) for b in (False, True)}


# --- resuming -------------------------------------------------------------------------------------


def test_two_steps_then_two_more_from_disk_are_four(world, student_steps, critic_step, tmp_path):
    """Student and critic alternate; every bit of the state comes back."""

    def train(state, steps):
        for number in range(steps):
            step = student_steps[0.0] if number % 2 else critic_step
            state, _ = step(state, world.frozen, world.batch, jax.random.key(5))
        return state

    straight = train(world.state(TX), 4)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, train(world.state(TX), 2), {}, wait=True)
    halfway, _ = checkpoints.restore(2, jax.eval_shape(lambda: world.state(TX)))
    checkpoints.close()
    assert halfway.step == 2
    same(train(halfway, 2), straight)
    same(straight.step, 4)
