"""A weight that is kept as codes and scales, and what undoes it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from flashjax.convert.tensors import Shape
from flashjax.types import InputError

WEIGHT = ".weight"
INT8 = np.dtype(np.int8)
FP8 = {
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
CODES = (INT8, *FP8.values())


@dataclass(frozen=True)
class Stored:
    """How one weight is kept: the tensors that it takes, what it becomes, and how it is computed.

    `read` takes the arrays of `parts` in order, and gives `shape` in float32.
    """

    parts: tuple[str, ...]
    shape: Shape
    read: Callable[..., np.ndarray]


def scaled(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
    """(codes - zero) * scale in float32; scales are of all, of rows, or of groups or blocks."""
    wide = codes.astype(np.float32)
    if zero is not None:
        wide -= spread(zero.astype(np.float32), codes.shape)
    return wide * spread(scale.astype(np.float32), codes.shape)


def spread(scale: np.ndarray, shape: Shape) -> np.ndarray:
    """Scales so that they broadcast over `shape`. ValueError where they do not fit it.

    Of a block only whole powers of two are taken: others would be a guess at the last block's size.
    """
    if scale.size == 1:
        return scale.reshape(())
    if scale.ndim == 1 and shape and scale.size == shape[0]:
        return scale.reshape(-1, *(1 for _ in shape[1:]))
    if scale.ndim != len(shape):
        raise ValueError(f"scales {scale.shape} for {shape}")
    for dim, (count, size) in enumerate(zip(scale.shape, shape, strict=True)):
        block, rest = divmod(size, count)
        if count == 1 or (block == 1 and not rest):
            continue
        if rest or block & (block - 1):
            raise ValueError(f"scales {scale.shape} for {shape}")
        scale = np.repeat(scale, block, axis=dim)
    return scale


@functools.cache
def hadamard(size: int) -> np.ndarray:
    """The regular Hadamard matrix "k k" of `size`, a power of 4.

    Its rows sum to a constant; symmetric and orthonormal, it is its own inverse.
    """
    mix = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], np.float32)
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.kron(matrix, mix)
    return matrix / np.sqrt(np.float32(size))


def fitted(
    where: str,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray | None = None,
    *,
    group: int = 1,
    factor: float = 1.0,
) -> np.ndarray:
    """`scaled`, rotated back. InputError for scales of another shape."""
    try:
        weight = scaled(codes, scale * np.float32(factor) if factor != 1 else scale, zero)
    except ValueError as error:
        raise InputError(f"{where}: {error}: they do not fit") from error
    if group == 1:
        return weight
    groups = weight.reshape(-1, group) @ hadamard(group)
    return groups.reshape(weight.shape)
