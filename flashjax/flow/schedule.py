"""Noise levels: shifts, the grids of samplers and students, and densities to train on.

Source: Esser et al. 2024, arXiv:2403.03206, sections 3.1 and 5.3.2; diffusers
`FlowMatchEulerDiscreteScheduler`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

TRAIN_STEPS = 1000  # entries of the reference implementations' table of noise levels


def shift_sigma(sigma: Array | np.ndarray, shift: float) -> Array | np.ndarray:
    """Moves noise levels towards noise: `shift sigma / (1 + (shift - 1) sigma)`."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def sampler_sigmas(steps: int, shift: float) -> np.ndarray:
    """The decreasing grid "steps + 1" of both reference samplers, 0 appended.

    The ends of the grid come from a table that is already shifted, and the grid is shifted again:
    the last step of SD3.5 starts at 0.008929 whatever the number of steps.
    """
    ends = shift_sigma(np.array([1.0, 1.0 / TRAIN_STEPS]), shift)
    grid = shift_sigma(np.linspace(ends[0], ends[1], steps), shift)
    return np.append(grid, 0.0).astype(np.float32)


def student_sigmas(steps: int, shift: float) -> np.ndarray:
    """The student's grid "steps + 1": equal raw steps, shifted once.

    Four steps with shift 3 are 1, .9, .75, .5, 0: raw timesteps 1000, 750, 500, 250, as others
    distil SD3.5-Medium.
    """
    raw = 1.0 - np.arange(steps + 1) / steps
    return np.asarray(shift_sigma(raw, shift), np.float32)


@dataclasses.dataclass(frozen=True)
class SigmaDensity:
    """Logit-normal density of noise levels, then shifted."""

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0


def draw_sigma(key: Array, batch: int, density: SigmaDensity) -> Array:
    """Noise levels "b" from a shifted logit-normal density."""
    normal = density.mean + density.std * jax.random.normal(key, (batch,))
    return jnp.asarray(shift_sigma(jax.nn.sigmoid(normal), density.shift))


def steps_in_range(steps: int, low: float, high: float) -> tuple[int, ...]:
    """The steps of a student whose raw timestep lies in (low, high], in units of 1000."""
    raw = TRAIN_STEPS * (1.0 - np.arange(steps) / steps)
    return tuple(int(i) for i in np.flatnonzero((raw > low) & (raw <= high)))
