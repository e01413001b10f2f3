"""Block codecs of GGUF as pure JAX: float32 rows to block bytes and back (F32, F16, Q8_0, Q6_K).

Blocks are runs of consecutive columns and do not know each other, so rows may be cut, stacked or
sharded freely. Byte layouts and rounding follow ggml's reference (`quantize_row_*_ref`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Q8_BLOCK, Q8_BYTES = 32, 34
Q6_BLOCK, Q6_BYTES = 256, 210
Q6_GROUP = 16  # weights that share one int8 scale inside a Q6_K block
Q6_LEVELS = 32  # codes are -32..31
FLOAT32_MAX = np.finfo(np.float32).max
ALL_ZERO = 1e-15  # ggml's GROUP_MAX_EPS: a group below this magnitude is stored as zeros

# ggml fits a scale to max/32 first, then tries 18 slightly coarser and finer ones.
Q6_TRIALS = np.float32(0.1) * np.array([*range(-9, 0), *range(1, 10)], np.float32) + Q6_LEVELS

Triple: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


@dataclass(frozen=True)
class Codec:
    """One GGUF tensor type: `block` consecutive weights become `block_bytes` bytes.

    `encode` maps float32 (rows, columns) to uint8 (rows, columns / block * block_bytes); `decode`
    maps back. Columns must be a multiple of `block`.
    """

    name: str
    ggml_type: int
    block: int
    block_bytes: int
    encode: Callable[[jax.Array | np.ndarray], jax.Array]
    decode: Callable[[jax.Array | np.ndarray], jax.Array]

    def encoded_bytes(self, weights: int) -> int:
        """Bytes that `weights` consecutive weights take."""
        return weights // self.block * self.block_bytes


@jax.jit
def encode_q8_0(x: jax.Array) -> jax.Array:
    """Q8_0: 32 weights as one float16 step amax/127 and 32 int8 codes. float32 -> uint8 rows."""
    blocks = x.reshape(-1, Q8_BLOCK)
    step = _divide(jnp.abs(blocks).max(axis=1, keepdims=True), 127.0)
    inverse = jnp.where(step == 0, 0, _divide(1.0, step))  # of the step before float16 rounds it
    codes = lax.round(blocks * inverse, lax.RoundingMethod.AWAY_FROM_ZERO).astype(jnp.int8)
    return jnp.concatenate([_float16_bytes(step), _bytes(codes)], axis=1).reshape(x.shape[0], -1)


@jax.jit
def decode_q8_0(codes: jax.Array) -> jax.Array:
    """Q8_0 uint8 rows -> float32 rows: step * code."""
    blocks = codes.reshape(-1, Q8_BYTES)
    return (_float16(blocks[:, :2]) * _int8(blocks[:, 2:])).reshape(codes.shape[0], -1)


@jax.jit
def encode_q6_k(x: jax.Array) -> jax.Array:
    """Q6_K: 256 weights as six-bit codes, 16 int8 scales, a float16 step. float32 -> uint8 rows."""
    groups = x.reshape(-1, Q6_GROUP)
    fitted, draft = _fit_groups(groups)
    step, scales = _quantise_scales(fitted.reshape(-1, Q6_BLOCK // Q6_GROUP))

    # Codes are rounded again on the grid that is stored; where that grid is 0 ggml keeps the draft.
    grid = (step.astype(jnp.float32) * scales).reshape(-1, 1)
    codes = jnp.where(grid == 0, draft, _round_codes(_divide(groups, grid)) + Q6_LEVELS)
    codes = codes.astype(jnp.uint8).reshape(-1, Q6_BLOCK)
    empty = jnp.abs(fitted).reshape(scales.shape).max(axis=1, keepdims=True) < ALL_ZERO
    packed = _pack_six_bits(jnp.where(empty, 0, codes))
    blocks = jnp.concatenate([packed, _bytes(scales), _float16_bytes(step)], axis=1)
    return blocks.reshape(x.shape[0], -1)


@jax.jit
def decode_q6_k(codes: jax.Array) -> jax.Array:
    """Q6_K uint8 rows -> float32 rows: step * scale * (code - 32)."""
    packed, scales, step = jnp.split(codes.reshape(-1, Q6_BYTES), [192, 208], axis=1)
    grid = _float16(step) * _int8(scales)
    levels = _unpack_six_bits(packed).astype(jnp.float32) - Q6_LEVELS
    weights = grid[:, :, None] * levels.reshape(-1, Q6_BLOCK // Q6_GROUP, Q6_GROUP)
    return weights.reshape(codes.shape[0], -1)


def _fit_groups(groups: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Best scale of each group (n, 16) -> scales (n,), codes + 32 on it (n, 16).

    ggml's `make_qx_quants`: least squares under weights x²; of all trials the codes q win that
    explain most energy, (sum x³q)² / sum x²q². A group of zeros gets scale 0 and codes 0.
    """
    columns, largest = list(groups.T), _signed_max(groups)

    def project(levels: jax.Array) -> Triple:
        inverse = _divide(-levels, largest)
        pairs = [(x, _round_codes(x * inverse)) for x in columns]
        along = _sum(x * x * x * code for x, code in pairs)
        return inverse, along, _sum(x * x * code * code for x, code in pairs)

    def keep_better(best: Triple, levels: jax.Array) -> tuple[Triple, None]:
        _, energy, _ = best
        inverse, along, norm = project(levels)
        fitted = _divide(along, norm)
        better = (norm > 0) & (along * along > energy * norm)
        trial = (fitted, fitted * along, inverse)
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, best), None

    inverse, along, norm = project(jnp.float32(Q6_LEVELS))
    scale = jnp.where(norm > 0, _divide(along, norm), 0)
    (scale, _, inverse), _ = lax.scan(
        keep_better, (scale, scale * along, inverse), jnp.array(Q6_TRIALS)
    )
    zero = jnp.abs(largest) < ALL_ZERO
    codes = _round_codes(groups * inverse[:, None]) + Q6_LEVELS
    return jnp.where(zero, 0, scale), jnp.where(zero[:, None], 0, codes)


def _quantise_scales(scales: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scales (n, 16) -> float16 step (n, 1) and int8 multiples of it; the largest becomes -128."""
    largest = _signed_max(scales)[:, None]
    empty = jnp.abs(largest) < ALL_ZERO
    inverse = jnp.where(empty, 0, _divide(-128.0, largest))
    step = jnp.where(empty, 0, _divide(1.0, inverse)).astype(jnp.float16)
    return step, jnp.minimum(127, jnp.round(inverse * scales)).astype(jnp.int8)


def _signed_max(rows: jax.Array) -> jax.Array:
    """The first entry of largest magnitude of each row, with its sign."""
    index = jnp.abs(rows).argmax(axis=1, keepdims=True)
    return jnp.take_along_axis(rows, index, axis=1)[:, 0]


def _round_codes(x: jax.Array) -> jax.Array:
    """Round half to even and clamp to -32..31, still float32."""
    return jnp.clip(jnp.round(x), -Q6_LEVELS, Q6_LEVELS - 1)


def _divide(x: jax.Array | float, divisor: jax.Array | float) -> jax.Array:
    """x / divisor, rounded once: XLA would rewrite 1 / (a / b) and division by a constant."""
    shape = jnp.broadcast_shapes(jnp.shape(x), jnp.shape(divisor))
    return lax.optimization_barrier(x / lax.optimization_barrier(jnp.broadcast_to(divisor, shape)))


def _sum(products: Iterable[jax.Array]) -> jax.Array:
    """Sum of products, each rounded first, one after the other: ggml's order and rounding.

    A minimum that changes nothing finite keeps compilers from fusing a product into the addition.
    """
    return reduce(jnp.add, (jnp.minimum(product, FLOAT32_MAX) for product in products))


def _pack_six_bits(codes: jax.Array) -> jax.Array:
    """Codes 0..63 (n, 256) -> 128 bytes of low nibbles, 64 bytes of high bit pairs (n, 192)."""
    quarters = codes.reshape(-1, 2, 4, 32)  # two halves of 128, each four runs of 32
    low, high = quarters & 15, quarters >> 4
    nibbles = low[:, :, :2] | low[:, :, 2:] << 4
    pairs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return jnp.concatenate([nibbles.reshape(-1, 128), pairs.reshape(-1, 64)], axis=1)


def _unpack_six_bits(packed: jax.Array) -> jax.Array:
    """The inverse of `_pack_six_bits`: (n, 192) -> codes 0..63 (n, 256)."""
    nibbles = packed[:, :128].reshape(-1, 2, 1, 2, 32)
    pairs = packed[:, 128:].reshape(-1, 2, 1, 32)
    low = (nibbles >> jnp.uint8([0, 4]).reshape(2, 1, 1) & 15).reshape(-1, 2, 4, 32)
    high = pairs >> jnp.uint8([0, 2, 4, 6]).reshape(4, 1) & 3
    return (low | high << 4).reshape(-1, Q6_BLOCK)


def _bytes(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, jnp.uint8)


def _float16_bytes(x: jax.Array) -> jax.Array:
    """(rows, columns) -> little-endian float16 bytes (rows, 2 * columns)."""
    return _bytes(x.astype(jnp.float16)).reshape(x.shape[0], -1)


def _float16(codes: jax.Array) -> jax.Array:
    """Little-endian float16 bytes (rows, 2 * columns) -> float32 (rows, columns)."""
    pairs = codes.reshape(codes.shape[0], -1, 2)
    return lax.bitcast_convert_type(pairs, jnp.float16).astype(jnp.float32)


def _int8(codes: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(codes, jnp.int8).astype(jnp.float32)


def _float32_bytes(x: jax.Array) -> jax.Array:
    return _bytes(x).reshape(x.shape[0], -1)


def _float32(codes: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(codes.reshape(codes.shape[0], -1, 4), jnp.float32)


F32 = Codec("F32", 0, 1, 4, jax.jit(_float32_bytes), jax.jit(_float32))
F16 = Codec("F16", 1, 1, 2, jax.jit(_float16_bytes), jax.jit(_float16))
Q8_0 = Codec("Q8_0", 8, Q8_BLOCK, Q8_BYTES, encode_q8_0, decode_q8_0)
Q6_K = Codec("Q6_K", 14, Q6_BLOCK, Q6_BYTES, encode_q6_k, decode_q6_k)
CODECS = (F32, F16, Q8_0, Q6_K)
