"""What a student's projections are given on its own way from noise to pictures.

Letters: i the inputs of a projection.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from flashjax import trees
from flashjax.convert.table import Row
from flashjax.convert.transformer import transformer_rows
from flashjax.models.mmdit import MMDiT, MMDiTConfig, moments_of, velocity_of
from flashjax.quantize.codecs.tensors import decibels
from flashjax.types import Cond, Params

Moments = dict[str, np.ndarray]  # SAI's name of a weight -> mean of x x^T over its inputs, "i i"
# Some captions at a time, encoded, with the noise of their pictures: numpy arrays on the host.
Chunks: TypeAlias = Iterable[tuple[Cond, np.ndarray]]


def second_moments(
    config: MMDiTConfig, params: Params, chunks: Chunks, sigmas: Sequence[float]
) -> Moments:
    """The moments of every linear weight, averaged over the steps of the grid `sigmas`."""
    step = jax.jit(moments_of(MMDiT(config)))
    total: dict[str, Any] = {}
    passes = 0
    for cond, x in chunks:
        for sigma, following in itertools.pairwise(sigmas):
            velocity, tree = step(params, x, _level(sigma, x), cond)
            for path, moment in trees.flatten(tree).items():
                total[path] = total.get(path, 0) + len(x) * np.asarray(moment)
            x = x + (following - sigma) * np.asarray(velocity)
            passes += len(x)
    for moment in total.values():
        np.divide(moment, passes, out=moment)
    rows = [row for row in transformer_rows(config, "sai") if row.path in total]
    return {row.keys[0]: _layer(total[row.path], row) for row in rows}


def _layer(moment: np.ndarray, row: Row) -> np.ndarray:
    return moment if row.layer is None else moment[row.layer]


def velocity_errors(
    config: MMDiTConfig, params: Params, chunks: Chunks, sigmas: Sequence[float]
) -> Callable[[Params], list[float]]:
    """Builds `errors(other) -> dB of the velocity, step by step` against that of `params`.

    Both see the same latents, those on the way of `params`; they are kept on the host.
    """
    velocity = jax.jit(velocity_of(MMDiT(config)))
    seen = []
    for cond, x in chunks:
        for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
            clean = np.asarray(velocity(params, x, _level(sigma, x), cond))
            seen.append((step, x, cond, clean))
            x = x + (following - sigma) * clean

    def errors(other: Params) -> list[float]:
        signal, noise = np.zeros((2, len(sigmas) - 1))
        for step, x, cond, clean in seen:
            wrong = np.asarray(velocity(other, x, _level(sigmas[step], x), cond)) - clean
            signal[step] += np.square(clean).sum()
            noise[step] += np.square(wrong).sum()
        return list(map(decibels, signal.tolist(), noise.tolist()))

    return errors


def _level(sigma: float, x: np.ndarray) -> np.ndarray:
    return np.full(len(x), sigma, np.float32)


def mean_decibels(ratios: Sequence[float]) -> float:
    """The ratio of all steps together: that of the mean of their relative errors."""
    return decibels(1.0, float(np.mean([10 ** (-ratio / 10) for ratio in ratios])))
