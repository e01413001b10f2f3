"""Q6_K rounded for what a layer puts out: each column's error is made up for by those after it.

The container and its grid stay Q6_K's; only the choice of scales and codes is other than ggml's.
Source: GPTQ, arXiv:2210.17323, algorithm 1, with the scales of each block of 256 columns fitted to
the weights that the blocks before left there.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from flashjax.quantize.codecs.blocks import as_bytes, float16_bytes
from flashjax.quantize.codecs.kquants import (
    ALL_ZERO,
    Q6_GROUP,
    Q6_LEVELS,
    SUPER_BLOCK,
    fit_rows,
    pack_six_bits,
    quantise_scales,
)

DAMPING = 0.01  # of the mean square of all inputs: what is added to each, against few samples
ROWS = 256  # outputs at a time, which do not know each other: programs of few shapes, on all cores


def encode_q6_k_for(
    weight: np.ndarray, moment: np.ndarray, *, damping: float = DAMPING
) -> np.ndarray:
    """Q6_K bytes (out, in / 256 * 210) of the weight "out in" whose inputs have second `moment`.

    Minimises the mean square of what rounding adds to the layer's outputs, column by column.
    """
    factor = jnp.asarray(_factor(moment, damping), jnp.float32)
    importance = jnp.asarray(np.maximum(np.diag(moment), ALL_ZERO), jnp.float32)
    padded = np.pad(weight.astype(np.float32), ((0, -len(weight) % ROWS), (0, 0)))

    def encode(rest: np.ndarray) -> np.ndarray:
        return np.asarray(_encode_rows(jnp.asarray(rest), factor, importance))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        codes = list(pool.map(encode, padded.reshape(-1, ROWS, weight.shape[1])))
    return np.concatenate(codes)[: len(weight)]


def _encode_rows(rest: Array, factor: Array, importance: Array) -> Array:
    """Rows "256 in", one block of columns after the other."""
    blocks = []
    for start in range(0, rest.shape[1], SUPER_BLOCK):
        columns = slice(start, start + SUPER_BLOCK)
        fitted, _ = fit_rows(rest[:, columns], jnp.tile(importance[columns], (ROWS, 1)))
        encoded, rest = _encode_block(rest, fitted, factor, start)
        blocks.append(encoded)
    return jnp.concatenate(blocks, axis=1)


def _factor(moment: np.ndarray, damping: float) -> np.ndarray:
    """The upper Cholesky factor of the inverse of the damped moment, in float64."""
    damped = moment.astype(np.float64)
    damped[np.diag_indices_from(damped)] += max(damping * np.diag(damped).mean(), ALL_ZERO)
    return np.linalg.cholesky(np.linalg.inv(damped)).T


@jax.jit
def _encode_block(rest: Array, fitted: Array, factor: Array, start: Array) -> tuple[Array, Array]:
    """One block of columns, its groups' scales `fitted` -> its bytes (rows, 210); the weights with
    its errors passed on."""
    block = lax.dynamic_slice_in_dim(rest, start, SUPER_BLOCK, axis=1)
    square = lax.dynamic_slice(factor, (start, start), (SUPER_BLOCK, SUPER_BLOCK))
    step, scales = quantise_scales(fitted.reshape(len(rest), -1))
    grid = jnp.repeat(step.astype(jnp.float32) * scales, Q6_GROUP, axis=1)

    def column(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        block, codes, errors = carry
        here, unit = block[:, index], grid[:, index]
        code = jnp.clip(jnp.round(here / jnp.where(unit == 0, 1, unit)), -Q6_LEVELS, Q6_LEVELS - 1)
        error = (here - code * unit) / square[index, index]
        block = block - error[:, None] * square[index]
        return block, codes.at[:, index].set(code), errors.at[:, index].set(error)

    start_from = (block, jnp.zeros_like(block), jnp.zeros_like(block))
    _, codes, errors = lax.fori_loop(0, SUPER_BLOCK, column, start_from)
    passed_on = lax.dynamic_slice_in_dim(factor, start, SUPER_BLOCK, axis=0)
    packed = pack_six_bits((codes + Q6_LEVELS).astype(jnp.uint8))
    encoded = jnp.concatenate([packed, as_bytes(scales), float16_bytes(step)], axis=1)
    return encoded, rest - errors @ passed_on
