"""What the gradient of distribution matching is made of: signal, noise, bias, and where it points.

A gradient is a function of the input (captions, first noise, the student's step) and of what
matching draws for it (level and noise). Letters: b batch, p parameters.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from flashjax.flow import path
from flashjax.losses.distribution_matching import matching_loss
from flashjax.losses.trajectory import trajectory_loss
from flashjax.models.text import draw_t5_drop, encode_pair
from flashjax.train.arms import MatchConfig, draw_guidance, gradient_of, matching_point
from flashjax.train.match import Networks
from flashjax.train.rollout import StudentStep, Taken, take_step
from flashjax.train.state import Frozen, MatchState
from flashjax.types import Batch, Cond, InputError, Metrics, Params

UNPROBED = "match.match.through=True has one gradient through all steps, and none of each"

Probe = Callable[[MatchState, Frozen, Batch, Array, Array, Array], tuple[Array, Metrics]]


def make_probe(nets: Networks, config: MatchConfig, sigmas: Array) -> Probe:
    """Builds `probe(state, frozen, batch, index, input_key, draw_key) -> (gradient "p", figures)`.

    The gradient is that of the matching loss alone at the student's step `index`; `input_key` draws
    the input, `draw_key` the matching point. Figures are means over the batch:
      normaliser: mean |x0 - x0_teacher|, which the gradient is divided by;
      score_gap: mean |x0_fake - x0_teacher|;
      guidance_cosine: of the direction in which x0 moves, with that of the teacher's guidance;
      shared_loss, renoised_loss: the fake score's at the level of the point, with the student's own
        noise and with fresh noise, which it learns with: their gap is the bias of sharing.

    InputError for an arm that matches the last sample through all steps: no step has a gradient of
    its own there.
    """
    if config.through:
        raise InputError(UNPROBED)

    def loss_fn(
        params: Params,
        state: MatchState,
        frozen: Frozen,
        batch: Batch,
        index: Array,
        keys: tuple[Array, Array],
    ) -> tuple[Array, Metrics]:
        noise_key, drop_key, guidance_key = jax.random.split(keys[0], 3)
        match_key, fresh_key = jax.random.split(keys[1])
        drop = draw_t5_drop(drop_key, len(batch.latents), config.drop_t5)
        conds = encode_pair(nets.text, frozen.text, batch.tokens, frozen.empty, drop=drop)
        at = StudentStep(sigmas, index, jnp.int32(0))
        noise = jax.random.normal(noise_key, batch.latents.shape)
        taken = take_step(nets.velocity, params, frozen, at, conds[0], noise)
        point = stop_gradient(matching_point(taken.x0, taken.noise, at, match_key, config))
        fresh = jax.random.normal(fresh_key, taken.x0.shape)
        scale = draw_guidance(guidance_key, taken.x0, config)
        return compared(nets, config, taken, point, state, frozen, conds, scale, fresh)

    def probe(
        state: MatchState,
        frozen: Frozen,
        batch: Batch,
        index: Array,
        input_key: Array,
        draw_key: Array,
    ) -> tuple[Array, Metrics]:
        params, keys = state.student.params, (input_key, draw_key)
        grads, figures = jax.grad(loss_fn, has_aux=True)(params, state, frozen, batch, index, keys)
        flat = [leaf.ravel() for leaf in jax.tree.leaves(grads)]
        return jnp.concatenate(flat), figures

    return probe


def compared(
    nets: Networks,
    config: MatchConfig,
    taken: Taken,
    point: tuple[Array, Array],
    state: MatchState,
    frozen: Frozen,
    conds: tuple[Cond, Cond],
    guidance: Array | float,
    fresh: Array,
) -> tuple[Array, Metrics]:
    """The matching loss with the scores compared at `point`, and the figures of `make_probe`."""
    x0, (x, level) = taken.x0, point
    told, untold = (nets.velocity(frozen.teacher, x, level, cond) for cond in conds)
    judge = functools.partial(nets.velocity, state.fake.params)
    teacher = path.to_x0(untold + guidance * (told - untold), x, level)
    fake = path.to_x0(judge(x, level, conds[0]), x, level)
    gradient = stop_gradient(gradient_of(config)(x0, teacher, fake, floor=config.floor))

    def fake_loss(noise: Array) -> Array:
        found = judge(path.add_noise(x0, noise, level), level, conds[0])
        return jnp.mean(trajectory_loss(found, noise - x0))

    guided = -path.along(level, x) * (told - untold)  # how guidance moves the teacher's x0
    return jnp.mean(matching_loss(x0, gradient)), {
        "normaliser": jnp.mean(jnp.abs(x0 - teacher)),
        "score_gap": jnp.mean(jnp.abs(fake - teacher)),
        "guidance_cosine": jnp.mean(_cosine(teacher - fake, guided)),
        "shared_loss": fake_loss(taken.noise),
        "renoised_loss": fake_loss(fresh),
    }


def _cosine(a: Array, b: Array) -> Array:
    """The cosine "b" of vectors "b ..."."""
    dims = tuple(range(1, a.ndim))
    length = jnp.sqrt(jnp.sum(a * a, dims) * jnp.sum(b * b, dims))
    return jnp.sum(a * b, dims) / jnp.maximum(length, 1e-12)


def agreement(first: Array, second: Array) -> Array:
    """The cosine of two gradients "p" at one input: 1 where what matching draws does not matter."""
    length = jnp.linalg.norm(first) * jnp.linalg.norm(second)
    return jnp.vdot(first, second) / jnp.maximum(length, 1e-30)
