"""What the gradient of distribution matching is made of: signal, noise, bias, and where it points.

A gradient is a function of the input (captions, first noise, the student's step) and of what
matching draws for it (level and noise). Letters: k inputs, p parameters.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from flashjax.flow import path
from flashjax.losses import distribution_matching
from flashjax.losses.trajectory import trajectory_loss
from flashjax.models.text import draw_t5_drop, encode_pair
from flashjax.train.arms import MatchConfig, draw_guidance, matching_point
from flashjax.train.match import Networks
from flashjax.train.rollout import StudentStep, student_input
from flashjax.train.state import Frozen, MatchState
from flashjax.types import Batch, Metrics, Params

RESAMPLES, LEVEL = 1000, 0.95

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
    """

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
        cond, uncond = encode_pair(nets.text, frozen.text, batch.tokens, frozen.empty, drop=drop)
        at = StudentStep(sigmas, index, jnp.int32(0))
        noise = jax.random.normal(noise_key, batch.latents.shape)
        start = student_input(nets.velocity, params, frozen, at, cond, noise=noise)
        sigma = jnp.full(start.shape[:1], sigmas[index])
        velocity = nets.velocity(params, start, sigma, cond)
        x0, own = path.to_x0(velocity, start, sigma), path.to_noise(velocity, start, sigma)

        x, level = stop_gradient(matching_point(x0, own, at, match_key, config))
        told, untold = (nets.velocity(frozen.teacher, x, level, c) for c in (cond, uncond))
        scale = draw_guidance(guidance_key, x0, config)
        teacher = path.to_x0(untold + scale * (told - untold), x, level)
        fake = path.to_x0(nets.velocity(state.fake.params, x, level, cond), x, level)
        gradient = stop_gradient(
            distribution_matching.matching_gradient(x0, teacher, fake, floor=config.floor)
        )

        def fake_loss(noise: Array) -> Array:
            found = nets.velocity(state.fake.params, path.add_noise(x0, noise, level), level, cond)
            return jnp.mean(trajectory_loss(found, noise - x0))

        guided = -path.along(level, x) * (told - untold)  # how guidance moves the teacher's x0
        return jnp.mean(distribution_matching.matching_loss(x0, gradient)), {
            "normaliser": jnp.mean(jnp.abs(x0 - teacher)),
            "score_gap": jnp.mean(jnp.abs(fake - teacher)),
            "guidance_cosine": jnp.mean(_cosine(teacher - fake, guided)),
            "shared_loss": fake_loss(own),
            "renoised_loss": fake_loss(jax.random.normal(fresh_key, x0.shape)),
        }

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


def _cosine(a: Array, b: Array) -> Array:
    """The cosine "b" of vectors "b ..."."""
    dims = tuple(range(1, a.ndim))
    length = jnp.sqrt(jnp.sum(a * a, dims) * jnp.sum(b * b, dims))
    return jnp.sum(a * b, dims) / jnp.maximum(length, 1e-12)


def agreement(first: Array, second: Array) -> Array:
    """The cosine of two gradients "p" at one input: 1 where what matching draws does not matter."""
    length = jnp.linalg.norm(first) * jnp.linalg.norm(second)
    return jnp.vdot(first, second) / jnp.maximum(length, 1e-30)


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Gradients of one arm at one step: `means` "k p" over so many `draws` at each input, and
    `within` "k", the summed variance of the draws there.
    """

    means: np.ndarray
    within: np.ndarray
    draws: int


def collect(gradients: Callable[[int, int], np.ndarray], inputs: int, draws: int) -> Drawn:
    """What the gradients "p" of every input and draw come to.

    ValueError for fewer than two of either: there would be no variance.
    """
    if min(inputs, draws) < 2:
        raise ValueError(f"probe: {inputs} inputs and {draws} draws; need two of each")
    means, within = [], []
    for number in range(inputs):
        found = np.stack([np.asarray(gradients(number, draw)) for draw in range(draws)])
        mean = found.mean(0, dtype=np.float64)
        means.append(mean.astype(np.float32))
        within.append(np.sum(np.square(found - mean)) / (draws - 1))
    return Drawn(np.stack(means), np.array(within), draws)


def signal(drawn: Drawn) -> dict[str, tuple[float, float]]:
    """What a single gradient is made of, each with half of its interval over the inputs.

    `snr` is |mean|^2 over all of the variance, `snr_of_draws` over that of the draws at a fixed
    input; `noise_share` is the share of the variance that the draws have. All three come from
    estimates without bias: the mean's square from pairs of different inputs.
    """
    gram = np.asarray(drawn.means, np.float64) @ drawn.means.T

    def figures(rows: np.ndarray) -> dict[str, float]:
        mean = _apart(gram, rows)
        noise = drawn.within[rows].mean()
        total = gram[rows, rows].mean() - mean - noise / drawn.draws + noise
        return {"snr": mean / total, "snr_of_draws": mean / noise, "noise_share": noise / total}

    return _with_errors(figures, len(gram))


def cosine(one: Drawn, other: Drawn) -> tuple[float, float]:
    """The cosine of the mean gradients of two arms at the same inputs, with half of its interval.

    NaN where an arm's mean is lost in its noise.
    """
    a, b = (np.asarray(drawn.means, np.float64) for drawn in (one, other))
    within, across = (a @ a.T, b @ b.T), a @ b.T

    def figures(rows: np.ndarray) -> dict[str, float]:
        squares = [_apart(gram, rows) for gram in within]
        good = min(squares) > 0
        length = np.sqrt(squares[0] * squares[1]) if good else np.nan
        return {"cosine": _apart(across, rows) / length}

    return _with_errors(figures, len(a))["cosine"]


def _apart(gram: np.ndarray, rows: np.ndarray) -> float:
    """The mean of products over pairs of different inputs; one that was drawn twice is none."""
    apart = rows[:, None] != rows[None, :]
    return float(np.mean(gram[np.ix_(rows, rows)][apart])) if apart.any() else np.nan


def _with_errors(
    figures: Callable[[np.ndarray], dict[str, float]], inputs: int
) -> dict[str, tuple[float, float]]:
    """Figures of all inputs, each with half the width of its central 95 % of bootstrap values."""
    random = np.random.default_rng(0)
    with np.errstate(divide="ignore", invalid="ignore"):  # without noise there is no ratio to it
        found = [figures(random.integers(inputs, size=inputs)) for _ in range(RESAMPLES)]
        whole = figures(np.arange(inputs))
    tail = (1 - LEVEL) / 2

    def half(name: str) -> float:
        values = np.array([values[name] for values in found])
        sound = values[np.isfinite(values)]
        if not len(sound):
            return float("nan")
        low, high = np.quantile(sound, (tail, 1 - tail))
        return float(high - low) / 2

    return {name: (float(value), half(name)) for name, value in whole.items()}
