"""Trajectory guidance against a reference written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flashjax import trees
from flashjax.models.text import draw_t5_drop, encode_pair
from flashjax.train.average import AverageConfig
from flashjax.train.guide import GuideConfig, make_guide_step
from flashjax.train.state import Descent, init_state

SIGMAS = jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])
RECORD = Descent(optax.trace(decay=0.0))  # an optimiser whose memory is the last gradient


def reference_loss(params, world, key):
    """The student at forward-noised data against the guided teacher's two Euler steps."""
    nets, frozen, x0 = world.nets, world.frozen, world.batch.latents
    index_key, noise_key, drop_key = jax.random.split(jax.random.fold_in(key, 0), 3)
    drop = draw_t5_drop(drop_key, 3, 0.5)
    cond, uncond = encode_pair(nets.text, frozen.text, world.batch.tokens, frozen.empty, drop=drop)
    index = jax.random.randint(index_key, (3,), 0, 4)
    start, end = (SIGMAS[index + k][:, None, None, None] for k in (0, 1))
    x = (1 - start) * x0 + start * jax.random.normal(noise_key, x0.shape)
    y = x
    for level in (start, (start + end) / 2):
        with_text = nets.velocity(frozen.teacher, y, level.ravel(), cond)
        without = nets.velocity(frozen.teacher, y, level.ravel(), uncond)
        y = y + (end - start) / 2 * (without + 3.0 * (with_text - without))
    return jnp.mean((nets.velocity(params, x, start.ravel(), cond) - (y - x) / (end - start)) ** 2)


def test_the_step_follows_the_reference_gradient(world):
    config = GuideConfig(guidance_scale=3.0, substeps=2, drop_t5=0.5)
    step = jax.jit(make_guide_step(world.nets.velocity, world.nets.text, RECORD, config, SIGMAS))
    reference = jax.jit(lambda p, key: jax.value_and_grad(reference_loss)(p, world, key))
    for seed in range(3):
        key = jax.random.key(seed)
        state, metrics = step(init_state(world.init(1), RECORD), world.frozen, world.batch, key)
        loss, grads = reference(world.init(1), key)
        np.testing.assert_allclose(metrics["student/loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["student/grad_norm"], optax.tree.norm(grads), rtol=1e-5)
        got = trees.flatten(state.learner.opt.trace)
        for name, grad in trees.flatten(grads).items():
            np.testing.assert_allclose(got[name], grad, rtol=1e-4, atol=1e-6, err_msg=name)
        assert state.step == 1


def test_a_batch_with_a_number_that_is_none_moves_nothing(world):
    """One pixel of one sample is enough; the step is counted, the next one is sound."""
    config = GuideConfig(guidance_scale=3.0, substeps=2, drop_t5=0.5)
    descent = Descent(RECORD.tx, AverageConfig(decay=0.9))
    step = jax.jit(make_guide_step(world.nets.velocity, world.nets.text, descent, config, SIGMAS))
    start, key = init_state(world.init(1), descent), jax.random.key(0)
    broken = world.batch.replace(latents=world.batch.latents.at[1, 0, 0, 0].set(jnp.nan))
    state, metrics = step(start, world.frozen, broken, key)
    for part in ("params", "opt", "ema"):
        before, after = (getattr(one.learner, part) for one in (start, state))
        jax.tree.map(np.testing.assert_array_equal, after, before)
    assert (metrics["student/skipped"], state.step) == (1, 1)
    state, metrics = step(state, world.frozen, world.batch, key)
    assert (metrics["student/skipped"], metrics["student/skipped_in_row"]) == (1, 0)
    assert np.any(state.learner.params["inner"] != start.learner.params["inner"])
