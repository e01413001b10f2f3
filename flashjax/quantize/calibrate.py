"""What a student's projections are given on its own way from noise to pictures.

Letters: i the inputs of a projection.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax import trees
from flashjax.convert.table import Row
from flashjax.convert.transformer import transformer_rows
from flashjax.models.mmdit import MMDiT, MMDiTConfig, moments_of, velocity_of
from flashjax.quantize.codecs.tensors import decibels
from flashjax.types import Cond, Params

Moments = dict[str, np.ndarray]  # SAI's name of a weight -> mean of x x^T over its inputs, "i i"


def second_moments(
    config: MMDiTConfig, params: Params, cond: Cond, noise: Array, sigmas: Sequence[float]
) -> Moments:
    """The moments of every linear weight, averaged over the steps of the grid `sigmas`."""
    step = jax.jit(moments_of(MMDiT(config)))
    total: dict[str, Any] = {}
    x = jnp.asarray(noise)
    for sigma, following in itertools.pairwise(sigmas):
        velocity, tree = step(params, x, jnp.full(len(x), sigma), cond)
        for path, moment in trees.flatten(tree).items():
            total[path] = total.get(path, 0) + np.asarray(moment) / (len(sigmas) - 1)
        x = x + (following - sigma) * velocity
    rows = [row for row in transformer_rows(config, "sai") if row.path in total]
    return {row.keys[0]: _layer(total[row.path], row) for row in rows}


def _layer(moment: np.ndarray, row: Row) -> np.ndarray:
    return moment if row.layer is None else moment[row.layer]


def velocity_errors(
    config: MMDiTConfig, params: Params, cond: Cond, noise: Array, sigmas: Sequence[float]
) -> Callable[[Params], list[float]]:
    """Builds `errors(other) -> dB of the velocity, step by step` against that of `params`.

    Both see the same latents, those on the way of `params`.
    """
    velocity = jax.jit(velocity_of(MMDiT(config)))
    x, seen = jnp.asarray(noise), []
    for sigma, following in itertools.pairwise(sigmas):
        level = jnp.full(len(x), sigma)
        clean = velocity(params, x, level, cond)
        seen.append((x, level, np.asarray(clean)))
        x = x + (following - sigma) * clean

    def errors(other: Params) -> list[float]:
        ratios = []
        for x, level, clean in seen:
            wrong = np.asarray(velocity(other, x, level, cond)) - clean
            ratios.append(decibels(float(np.square(clean).sum()), float(np.square(wrong).sum())))
        return ratios

    return errors


def mean_decibels(ratios: Sequence[float]) -> float:
    """The ratio of all steps together: that of the mean of their relative errors."""
    return decibels(1.0, float(np.mean([10 ** (-ratio / 10) for ratio in ratios])))
