"""What distribution matching may do in more than one way: its config, and the points it draws.

Source of the arms: SD3.5-Flash, arXiv:2509.21318 (shared levels of the student's own line); DMD2,
arXiv:2405.14867 (uniform levels, fresh noise); CDM, arXiv:2605.06376 (any level of the line); TDM,
arXiv:2503.06674, and Phased DMD, arXiv:2510.27684 (a state of the line, diffused from there).
Letters: b batch, s student steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.flow import path
from flashjax.flow.schedule import SigmaDensity, draw_sigma, shift_sigma
from flashjax.losses.distribution_matching import matching_gradient
from flashjax.train.rollout import StudentStep
from flashjax.types import Count, InputError, Positive, Share, Weight, code_of

Level: TypeAlias = Literal["any", "next", "grid", "uniform", "line", "interval"]
Target: TypeAlias = Literal["unbiased", "sample"]


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """Where scores are compared and how the losses are weighed.

    A batch is differentiated in `parts`, one after the other; each draws its own student step.
    """

    eta: Share  # 0: the student's own noise (timestep sharing), 1: fresh noise (re-noising)
    guidance_scale: Weight  # of the teacher
    density: SigmaDensity  # noise levels of the fake score's training, and of both sides' heads
    shared_share: Share  # share of its samples that are trained exactly at the shared levels
    adversarial_weight: Weight  # of the heads' loss in the student's
    trajectory_weight: Weight  # of the trajectory loss of `guide` in the student's
    trajectory_substeps: Count  # of the teacher within a step, for that loss
    head_reset: Share  # probability per head and critic step of being drawn anew
    fake_pull: Share  # fake <- (1 - pull) fake + pull student, after every student step
    drop_t5: Share  # share of samples without T5
    halved: Share  # share of batches on every other level of the grid, in half as many steps
    told: bool = False  # whether the student is told of halved batches, by one vector more
    level: Level = "any"  # where scores are compared: `matching_point`
    last: Literal["renoise", "share"] = "renoise"  # what the last step does
    interval_target: Target = "unbiased"  # of a fake score on intervals; or the "sample", as TDM's
    guidance_spread: Weight = 0.0  # the scale of every sample is drawn so far around its own
    adversarial: Literal["softplus", "hinge"] = "softplus"  # loss of the heads
    fake_eta: Share = 1.0  # noise the fake score learns on: 1 fresh, 0 the student's own, biased
    matching_weight: Weight = 1.0  # of the matching loss; 0: what `guide` learns, for longer
    feature_weight: Weight = 0.0  # of the distance to the mean features of real samples
    through: bool = False  # the last sample is matched, back through all steps but the first
    heads_reach: Weight = 0.0  # weight of the heads' gradient in the fake score
    floor: Positive = 0.1  # of the normaliser of the matching gradient
    renoise: tuple[Share, Share] = (0.02, 0.98)  # lowest and highest level that is drawn
    renoise_shift: Positive = 1.0  # of uniform levels, up to the highest: SD3.5 has 3
    parts: Count = 1  # of a batch, differentiated one after the other
    gradient: str = ""  # package.module:name of your own `matching_gradient`; "" is DMD's

    def __post_init__(self) -> None:
        if self.gradient:
            code_of(self.gradient, "gradient")
        low, high = self.renoise
        if not 0.0 < low < high < 1.0:
            raise InputError(f"renoise={self.renoise}: give levels, 0 < low < high < 1")
        if not 0.0 <= self.eta <= 1.0:
            raise InputError(f"eta={self.eta}: give a share, from 0 to 1")
        learnt = ("matching_weight", "adversarial_weight", "trajectory_weight", "feature_weight")
        if not any(getattr(self, name) for name in learnt):
            raise InputError(f"of {', '.join(learnt)} one must be above 0: no loss is left")
        if self.through and (self.halved or self.level == "interval"):
            raise InputError(
                "through=True matches the last sample of the whole grid: set halved=0, and a level "
                'other than "interval"'
            )
        if self.told and not self.halved:
            raise InputError("told=True but halved=0: there is nothing to tell the student of")
        interval = self.level == "interval"
        if self.interval_target == "sample" and not interval:
            raise InputError('interval_target="sample" is of level="interval": set that, too')
        if interval and self.fake_eta != 1.0:
            raise InputError('level="interval" diffuses with fresh noise: leave fake_eta at 1')
        judged = self.adversarial_weight or self.feature_weight
        if interval and (judged or self.eta or self.last == "share"):
            raise InputError(
                'level="interval" has its own noise and no levels for heads: set eta=0, '
                'last="renoise", adversarial_weight=0 and feature_weight=0'
            )


def gradient_of(config: MatchConfig) -> Callable[..., Array]:
    """`gradient(x0, teacher_x0, fake_x0, floor=) -> direction "b ..."`: DMD's, or your own."""
    return code_of(config.gradient, "gradient") if config.gradient else matching_gradient


def matching_point(
    x0: Array, student_noise: Array, at: StudentStep, key: Array, config: MatchConfig
) -> tuple[Array, Array]:
    """Where teacher and fake score are compared: `x` "b ..." and its `sigma` "b".

    The levels of `config.level`: "any" later one of the student's grid, the "next" of it, any of
    the "grid", "uniform" ones, or a random one of the "line" below the step's own. On an "interval"
    the sample moves to the next level, and is diffused from there to one below the step's own. The
    last step has no later level above 0, and on the student's own line its pull would vanish: it is
    re-noised at a uniform level, or shares its own level where `config.last` says so.
    """
    level_key, uniform_key, fresh_key = jax.random.split(key, 3)
    sigmas, index, steps = at.sigmas, at.index, jnp.sum(at.sigmas > 0)
    low, high = config.renoise
    share = jax.random.uniform(level_key, x0.shape[:1])
    uniform = jax.random.uniform(uniform_key, x0.shape[:1], minval=low, maxval=high)
    uniform = jnp.minimum(shift_sigma(uniform, config.renoise_shift), high)
    later = jnp.minimum(index + 1 + (share * (steps - 1 - index)).astype(jnp.int32), steps - 1)
    levels = {
        "any": lambda: sigmas[later],
        "next": lambda: jnp.full_like(share, sigmas[jnp.minimum(index + 1, steps - 1)]),
        "grid": lambda: sigmas[(share * steps).astype(jnp.int32)],
        "uniform": lambda: uniform,
        "line": lambda: low + share * (jnp.minimum(sigmas[index], high) - low),
        "interval": lambda: above(sigmas[index + 1], sigmas[index], share, high),
    }
    sigma = jnp.minimum(levels[config.level](), high)
    eta = jnp.full_like(share, config.eta)
    if config.last == "renoise":
        last = index == steps - 1
        sigma, eta = jnp.where(last, uniform, sigma), jnp.where(last, 1.0, eta)
    fresh = jax.random.normal(fresh_key, x0.shape)
    if config.level == "interval":
        start = jnp.where(index == steps - 1, 0.0, jnp.full_like(share, sigmas[index + 1]))
        return path.diffuse(path.add_noise(x0, student_noise, start), start, sigma, fresh), sigma
    return path.add_noise(x0, path.matching_noise(student_noise, fresh, eta), sigma), sigma


def above(low: Array, top: Array, share: Array, high: float) -> Array:
    """Levels that far from `low` to `top`, kept below `high`; never `low` itself."""
    return low + jnp.maximum(share, 1e-3) * (jnp.minimum(top, high) - low)


def draw_levels(key: Array, size: int, config: MatchConfig, sigmas: Array) -> Array:
    """Noise levels "b" that the critic sees: a share at the shared levels of the grid.

    The fake score learns at them, the heads judge at them, and the student is judged at them.
    """
    density_key, grid_key, share_key = jax.random.split(key, 3)
    spread = draw_sigma(density_key, size, config.density)
    if len(sigmas) < 3:  # a student of one step shares none
        return spread
    grid = jax.random.choice(grid_key, sigmas[1:-1], (size,))
    shared = jax.random.bernoulli(share_key, config.shared_share, (size,))
    return jnp.where(shared, grid, spread)


def draw_interval(key: Array, low: Array, config: MatchConfig) -> tuple[Array, Array]:
    """Levels "b" above `low` "b" that the fake score learns at, and the weights of its errors.

    The target's variance grows towards `low`: an error weighs as the noise that was added, at most
    10 (Phased DMD).
    """
    share, high = jax.random.uniform(key, low.shape), config.renoise[1]
    sigma = above(low, jnp.float32(high), share, high)
    added = jnp.square(sigma) - jnp.square((1.0 - sigma) / (1.0 - low) * low)
    return sigma, jnp.minimum(1.0 / added, 10.0)


def interval_point(
    x0: Array, own: Array, low: Array, sigma: Array, noise: Array, config: MatchConfig
) -> tuple[Array, Array]:
    """Where the fake score learns on an interval, and what: a point "b ..." and its velocity.

    The sample `x0` moves with the student's `own` noise to the level `low` "b" and is diffused from
    there to `sigma` "b". The "unbiased" target has the path's mean there (Phased DMD); the "sample"
    one leads to `x0`, which lies on that line and not on any of fresh noise (TDM).
    """
    start = path.add_noise(x0, own, low)
    x = path.diffuse(start, low, sigma, noise)
    if config.interval_target == "sample":
        return x, path.to_velocity(x0, x, sigma)
    return x, path.diffused_velocity(start, low, sigma, noise)


def draw_guidance(key: Array, x: Array, config: MatchConfig) -> Array | float:
    """The teacher's guidance: one scale, or one for every sample, to broadcast over `x` "b ..."."""
    if not config.guidance_spread:
        return config.guidance_scale
    drawn = jax.random.uniform(key, x.shape[:1], minval=-1.0, maxval=1.0)
    return path.along(config.guidance_scale + config.guidance_spread * drawn, x)
