"""Noise levels: shifts, the grids of samplers and students, and densities to train on.

Source: Esser et al. 2024, arXiv:2403.03206, sections 3.1 and 5.3.2; diffusers
`FlowMatchEulerDiscreteScheduler`.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.types import InputError, Positive

TRAIN_STEPS = 1000  # entries of the reference implementations' table of noise levels
FARTHEST = 50.0  # exponent of a shift: beyond it every level is 0 or 1
RHO, BETA = 7.0, 0.6  # of Karras' spacing (arXiv:2206.00364) and of beta's (arXiv:2407.12173)


def shift_sigma(sigma: Array | np.ndarray, shift: float) -> Array | np.ndarray:
    """Moves noise levels "b" towards noise: `shift sigma / (1 + (shift - 1) sigma)`."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a sampler lays out its noise levels: diffusers' settings, under diffusers' names.

    A dynamic shift grows with the picture, on the line through two counts of image tokens;
    `shift_terminal` is where the last step starts, 0 where it is left alone. One spacing at most.
    """

    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    time_shift_type: str = "exponential"  # or "linear": what a dynamic shift's line gives
    shift_terminal: float = 0.0
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False

    def shift_of(self, tokens: int) -> float:
        """The shift of pictures of so many image tokens. InputError where it is none."""
        if not self.use_dynamic_shifting:
            return self.shift
        if tokens < 1:
            raise ValueError("a dynamic shift is that of a picture: say its tokens")
        span = self.max_image_seq_len - self.base_image_seq_len
        slope = (self.max_shift - self.base_shift) / span
        found = self.base_shift + slope * (tokens - self.base_image_seq_len)
        exponential = self.time_shift_type == "exponential"
        if abs(found) > FARTHEST if exponential else found <= 0:
            raise InputError(
                f"the scheduler's {self.time_shift_type} time_shift_type gives {tokens} tokens no "
                f"shift: {found:.3g}"
            )
        return math.exp(found) if exponential else found


def sampler_sigmas(steps: int, schedule: Schedule | float, tokens: int = 0) -> np.ndarray:
    """The decreasing grid "steps + 1" of both reference samplers, 0 appended.

    `schedule` may be a shift alone; only a dynamic one asks for the image's `tokens`. The ends of
    the grid come from a table that is already shifted, unless dynamically, and the grid is shifted
    again: the last step of SD3.5 starts at 0.008929 whatever the number of steps. InputError for a
    grid that the schedule does not have.
    """
    schedule = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
    shift = schedule.shift_of(tokens)
    ends = np.array([1.0, 1.0 / TRAIN_STEPS])
    first, last = ends if schedule.use_dynamic_shifting else shift_sigma(ends, shift)
    grid = np.asarray(shift_sigma(np.linspace(first, last, steps), shift))
    if schedule.shift_terminal:
        if steps < 2:
            raise InputError("the scheduler has a shift_terminal: give two steps or more")
        grid = 1.0 - (1.0 - grid) * (1.0 - schedule.shift_terminal) / (1.0 - grid[-1])
    return np.append(_spaced(grid, schedule), 0.0).astype(np.float32)


def _spaced(grid: np.ndarray, schedule: Schedule) -> np.ndarray:
    """The grid's ends with other steps between them, where the schedule has a spacing."""
    first, last, ramp = grid[0], grid[-1], np.linspace(0.0, 1.0, len(grid))
    if schedule.use_karras_sigmas:
        return (first ** (1 / RHO) + ramp * (last ** (1 / RHO) - first ** (1 / RHO))) ** RHO
    if schedule.use_exponential_sigmas:
        return np.exp(np.linspace(np.log(first), np.log(last), len(grid)))
    if schedule.use_beta_sigmas:
        from scipy.special import betaincinv  # half a second to import, for few models

        return last + (first - last) * betaincinv(BETA, BETA, 1.0 - ramp)
    return grid


def student_sigmas(steps: int, shift: float) -> np.ndarray:
    """The student's grid "steps + 1": equal raw steps, shifted once.

    Four steps with shift 3 are 1, .9, .75, .5, 0: raw timesteps 1000, 750, 500, 250, as others
    distil SD3.5-Medium.
    """
    raw = 1.0 - np.arange(steps + 1) / steps
    return np.asarray(shift_sigma(raw, shift), np.float32)


@dataclasses.dataclass(frozen=True)
class SigmaDensity:
    """Logit-normal or uniform density of noise levels, then shifted."""

    mean: float = 0.0  # of the logits
    std: Positive = 1.0  # of the logits
    shift: Positive = 1.0  # towards noise, above 1
    kind: Literal["logit_normal", "uniform"] = "logit_normal"  # of the levels before the shift


def draw_sigma(key: Array, batch: int, density: SigmaDensity) -> Array:
    """Noise levels "b" from a density."""
    if density.kind == "uniform":
        raw = jax.random.uniform(key, (batch,))
    else:
        raw = jax.nn.sigmoid(density.mean + density.std * jax.random.normal(key, (batch,)))
    return jnp.asarray(shift_sigma(raw, density.shift))


def steps_in_range(steps: int, low: float, high: float, shift: float = 1.0) -> tuple[int, ...]:
    """The steps of a student whose timestep lies in (low, high], in units of 1000.

    Timesteps are raw; with the schedule's `shift` they are those that the network is told.
    """
    raw = 1.0 - np.arange(steps) / steps
    timesteps = np.round(TRAIN_STEPS * np.asarray(shift_sigma(raw, shift)), 6)
    return tuple(int(i) for i in np.flatnonzero((timesteps > low) & (timesteps <= high)))
