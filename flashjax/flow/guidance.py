"""Guidance as a wrapper of a velocity function: classifier-free, and away from skipped layers.

Source: Ho and Salimans 2022, arXiv:2207.12598, in its velocity form; the skip-layer guidance that
Stability AI publishes with SD3.5-Medium (diffusers `StableDiffusion3Pipeline` has the same).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.flow.path import along
from flashjax.types import Cond, InputError, Params

Velocity = Callable[[Params, Array, Array, Cond], Array]
Guided = Callable[[Params, Array, Array, Cond, Cond], Array]


@dataclasses.dataclass(frozen=True)
class SkipLayers:
    """How far to push away from what the model says without `blocks`, and when.

    It acts in the steps strictly between `start` and `end`, shares of all steps counted from 0. The
    defaults are Stability AI's for SD3.5-Medium.
    """

    scale: float = 2.5
    start: float = 0.01
    end: float = 0.20
    blocks: tuple[int, ...] = (7, 8, 9)

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.end <= 1.0:
            raise InputError(
                f"skip-layer guidance from {self.start} to {self.end}: give shares of the steps, "
                "0 <= start < end <= 1"
            )

    def between(self, sigmas: np.ndarray) -> tuple[float, float]:
        """The noise levels (low, high), both excluded, between which it acts on the grid "s+1"."""
        steps = len(sigmas) - 1
        return sigmas[math.ceil(self.end * steps)], sigmas[math.floor(self.start * steps)]


def guided(velocity: Velocity, guidance_scale: Array | float) -> Guided:
    """`guided(params, x, sigma, cond, uncond)`: `uncond + scale (cond - uncond)`.

    Both halves go through the network as one batch, 2 "b". An array of scales broadcasts over `x`,
    "b h w c".
    """

    def both(params: Params, x: Array, sigma: Array, cond: Cond, uncond: Cond) -> Array:
        with_text, without = _pair(velocity, params, x, sigma, cond, uncond)
        return without + guidance_scale * (with_text - without)

    return both


def skip_guided(
    velocity: Velocity,
    skipping: Velocity,
    guidance_scale: float,
    *,
    skip: SkipLayers,
    sigmas: np.ndarray,
) -> Guided:
    """`guided`, plus `skip.scale (cond - skipped)` in the steps that `skip` names.

    `skipping` is the velocity without `skip.blocks`; it is evaluated in those steps only. They are
    recognised by their sigma, so `sigmas` is the decreasing grid "s+1" that the solver follows.
    """
    low, high = skip.between(np.asarray(sigmas, np.float32))

    def pushed(params: Params, x: Array, sigma: Array, cond: Cond, uncond: Cond) -> Array:
        with_text, without = _pair(velocity, params, x, sigma, cond, uncond)
        acts = (low < sigma) & (sigma < high)
        push = jax.lax.cond(
            jnp.any(acts),
            lambda: skip.scale * (with_text - skipping(params, x, sigma, cond)),
            lambda: jnp.zeros_like(with_text),
        )
        scaled = without + guidance_scale * (with_text - without)
        return scaled + jnp.where(along(acts, x), push, 0.0)

    return pushed


def _pair(
    velocity: Velocity, params: Params, x: Array, sigma: Array, cond: Cond, uncond: Cond
) -> list[Array]:
    """The velocities with and without the text, in one pass."""
    twice = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), cond, uncond)
    pair = velocity(params, jnp.concatenate([x, x]), jnp.concatenate([sigma, sigma]), twice)
    return jnp.split(pair, 2)
