"""ggml's K types: blocks of 256 weights whose groups have small integer scales.

Q6_K has 16 symmetric groups of 16; Q5_K and Q4_K have 8 groups of 32 with a scale and a minimum.
Source: ggml-quants.c, `quantize_row_q6_K_ref`, `quantize_row_q5_K_ref`, `quantize_row_q4_K_ref`;
byte for byte the same, given the order and rounding of sums that blocks.py keeps.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from flashjax.quantize.codecs.blocks import (
    as_bytes,
    as_float16,
    as_int8,
    divide,
    exact_sum,
    float16_bytes,
    root,
    rounded,
    running_sum,
    signed_max,
)

SUPER_BLOCK = 256
Q6_BYTES, Q5_BYTES, Q4_BYTES = 210, 176, 144
Q6_GROUP = 16  # weights that share one int8 scale inside a Q6_K block
Q6_LEVELS = 32  # codes are -32..31
ALL_ZERO = 1e-15  # ggml's GROUP_MAX_EPS: a group below this magnitude is stored as zeros
AFFINE_GROUP, AFFINE_GROUPS = 32, 8
LARGEST_SCALE = 63  # six bits for each scale and minimum of Q5_K and Q4_K

# ggml fits a scale to max/32 first, then tries 18 slightly coarser and finer ones.
Q6_TRIALS = np.float32(0.1) * np.array([*range(-9, 0), *range(1, 10)], np.float32) + Q6_LEVELS
# For Q5_K and Q4_K: (first, count) of trials that are 0.1 apart, added to the largest code.
AFFINE_TRIALS = {31: (np.float32(-0.5), 16), 15: (np.float32(-1.0), 21)}

Fit: TypeAlias = tuple[Array, Array, Array]
Affine: TypeAlias = tuple[Array, Array, Array, Array, Array]


def encode_q6_k(x: Array, importance: Array | None = None) -> Array:
    """Q6_K: 256 weights as six-bit codes, 16 int8 scales, a float16 step. float32 -> uint8 rows.

    Scales minimise the squared error of each weight times `importance`, an array like `x`; ggml's
    x² is the default. Two programs, not one: compilers fuse the search for a scale into each of
    the weights that use it, and do it sixteen times.
    """
    fitted, draft = fit_rows(x, importance)
    return _store(x, fitted, draft)


@jax.jit
def fit_rows(x: Array, importance: Array | None) -> tuple[Array, Array]:
    """`fit_groups` of rows: scales (groups,) and codes (groups, 16)."""
    weights = x * x if importance is None else importance
    return fit_groups(x.reshape(-1, Q6_GROUP), weights.reshape(-1, Q6_GROUP))


@jax.jit
def _store(x: Array, fitted: Array, draft: Array) -> Array:
    """The bytes of rows whose groups have scales `fitted` and, on these, codes `draft`."""
    groups = x.reshape(-1, Q6_GROUP)
    step, scales = quantise_scales(fitted.reshape(-1, SUPER_BLOCK // Q6_GROUP))

    # Codes are rounded again on the grid that is stored; where that grid is 0 ggml keeps the draft.
    grid = (step.astype(jnp.float32) * scales).reshape(-1, 1)
    codes = jnp.where(grid == 0, draft, _round_codes(divide(groups, grid)) + Q6_LEVELS)
    codes = codes.astype(jnp.uint8).reshape(-1, SUPER_BLOCK)
    empty = jnp.abs(fitted).reshape(scales.shape).max(axis=1, keepdims=True) < ALL_ZERO
    packed = pack_six_bits(jnp.where(empty, 0, codes))
    blocks = jnp.concatenate([packed, as_bytes(scales), float16_bytes(step)], axis=1)
    return blocks.reshape(x.shape[0], -1)


@jax.jit
def decode_q6_k(codes: Array) -> Array:
    """Q6_K uint8 rows -> float32 rows: step * scale * (code - 32)."""
    packed, scales, step = jnp.split(codes.reshape(-1, Q6_BYTES), [192, 208], axis=1)
    grid = as_float16(step) * as_int8(scales)
    levels = unpack_six_bits(packed).astype(jnp.float32) - Q6_LEVELS
    weights = grid[:, :, None] * levels.reshape(-1, SUPER_BLOCK // Q6_GROUP, Q6_GROUP)
    return weights.reshape(codes.shape[0], -1)


def fit_groups(groups: Array, weights: Array) -> tuple[Array, Array]:
    """Best scale of each group (n, 16) -> scales (n,), codes + 32 on it (n, 16).

    ggml's `make_qx_quants`: weighted least squares; of all trials the codes q win that explain
    most energy, (sum wxq)² / sum wq². A group of zeros gets scale 0 and codes 0. All trials are
    computed side by side: one long loop over groups, which compilers make vectors of.
    """
    columns = list(zip(groups.T[:, None], weights.T[:, None], strict=True))
    largest = signed_max(groups)
    levels = jnp.array([Q6_LEVELS, *Q6_TRIALS], jnp.float32)[:, None]
    inverses = divide(-levels, largest[None])
    pairs = [(x, w, _round_codes(x * inverses)) for x, w in columns]
    along = exact_sum(w * x * code for x, w, code in pairs)
    norm = exact_sum(w * code * code for _, w, code in pairs)
    fits = divide(along, norm)

    scale, inverse = jnp.where(norm[0] > 0, fits[0], 0), inverses[0]
    energy = scale * along[0]
    for trial in range(1, len(levels)):
        better = (norm[trial] > 0) & (along[trial] * along[trial] > energy * norm[trial])
        scale = jnp.where(better, fits[trial], scale)
        energy = jnp.where(better, fits[trial] * along[trial], energy)
        inverse = jnp.where(better, inverses[trial], inverse)
    zero = jnp.abs(largest) < ALL_ZERO
    codes = _round_codes(groups * inverse[:, None]) + Q6_LEVELS
    return jnp.where(zero, 0, scale), jnp.where(zero[:, None], 0, codes)


def quantise_scales(scales: Array) -> tuple[Array, Array]:
    """Scales (n, 16) -> float16 step (n, 1) and int8 multiples of it; the largest becomes -128."""
    largest = signed_max(scales)[:, None]
    empty = jnp.abs(largest) < ALL_ZERO
    inverse = jnp.where(empty, 0, divide(-128.0, largest))
    step = jnp.where(empty, 0, divide(1.0, inverse)).astype(jnp.float16)
    return step, jnp.minimum(127, jnp.round(inverse * scales)).astype(jnp.int8)


def _round_codes(x: Array) -> Array:
    """Round half to even and clamp to -32..31, still float32."""
    return jnp.clip(jnp.round(x), -Q6_LEVELS, Q6_LEVELS - 1)


def pack_six_bits(codes: Array) -> Array:
    """Codes 0..63 (n, 256) -> 128 bytes of low nibbles, 64 bytes of high bit pairs (n, 192)."""
    quarters = codes.reshape(-1, 2, 4, 32)  # two halves of 128, each four runs of 32
    low, high = quarters & 15, quarters >> 4
    nibbles = low[:, :, :2] | low[:, :, 2:] << 4
    pairs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return jnp.concatenate([nibbles.reshape(-1, 128), pairs.reshape(-1, 64)], axis=1)


def unpack_six_bits(packed: Array) -> Array:
    """The inverse of `pack_six_bits`: (n, 192) -> codes 0..63 (n, 256)."""
    nibbles = packed[:, :128].reshape(-1, 2, 1, 2, 32)
    pairs = packed[:, 128:].reshape(-1, 2, 1, 32)
    low = (nibbles >> jnp.uint8([0, 4]).reshape(2, 1, 1) & 15).reshape(-1, 2, 4, 32)
    high = pairs >> jnp.uint8([0, 2, 4, 6]).reshape(4, 1) & 3
    return (low | high << 4).reshape(-1, SUPER_BLOCK)


@jax.jit
def encode_q5_k(x: Array) -> Array:
    """Q5_K: 256 weights as five-bit codes, 8 six-bit scales and minima. float32 -> uint8 rows."""
    head, codes = _encode_affine(x, largest_code=31)
    pairs = codes.reshape(-1, 4, 2, AFFINE_GROUP)
    shifts = jnp.arange(AFFINE_GROUPS, dtype=jnp.uint8)[:, None]
    high = (codes.reshape(-1, AFFINE_GROUPS, AFFINE_GROUP) >> 4 << shifts).sum(
        axis=1, dtype=jnp.uint8
    )
    low = (pairs[:, :, 0] & 15 | pairs[:, :, 1] << 4).reshape(-1, SUPER_BLOCK // 2)
    return jnp.concatenate([head, high, low], axis=1).reshape(x.shape[0], -1)


@jax.jit
def encode_q4_k(x: Array) -> Array:
    """Q4_K: 256 weights as four-bit codes, 8 six-bit scales and minima. float32 -> uint8 rows."""
    head, codes = _encode_affine(x, largest_code=15)
    pairs = codes.reshape(-1, 4, 2, AFFINE_GROUP)
    low = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, SUPER_BLOCK // 2)
    return jnp.concatenate([head, low], axis=1).reshape(x.shape[0], -1)


@jax.jit
def decode_q5_k(codes: Array) -> Array:
    """Q5_K uint8 rows -> float32 rows: step * scale * code - step' * minimum."""
    head, high, low = jnp.split(codes.reshape(-1, Q5_BYTES), [16, 48], axis=1)
    shifts = jnp.arange(AFFINE_GROUPS, dtype=jnp.uint8)[:, None]
    levels = _nibbles(low) | (high[:, None] >> shifts & 1) << 4
    return _decode_affine(head, levels).reshape(codes.shape[0], -1)


@jax.jit
def decode_q4_k(codes: Array) -> Array:
    """Q4_K uint8 rows -> float32 rows: step * scale * code - step' * minimum."""
    head, low = jnp.split(codes.reshape(-1, Q4_BYTES), [16], axis=1)
    return _decode_affine(head, _nibbles(low)).reshape(codes.shape[0], -1)


def _encode_affine(x: Array, *, largest_code: int) -> tuple[Array, Array]:
    """float32 rows -> the 16 bytes of steps, scales and minima; uint8 codes (blocks, 256)."""
    groups = x.reshape(-1, AFFINE_GROUP)
    fitted, minima, draft = _fit_affine(groups, largest_code)
    step, scales = _six_bit_multiples(fitted)
    minimum_step, lows = _six_bit_multiples(minima)
    grid = (step.astype(jnp.float32) * scales).reshape(-1, 1)
    offset = (minimum_step.astype(jnp.float32) * lows).reshape(-1, 1)
    again = jnp.clip(jnp.round(divide(groups + rounded(offset), grid)), 0, largest_code)
    codes = jnp.where(grid == 0, draft, again).astype(jnp.uint8).reshape(-1, SUPER_BLOCK)
    steps = [float16_bytes(step), float16_bytes(minimum_step)]
    return jnp.concatenate([*steps, _pack_scales(scales, lows)], axis=1), codes


def _fit_affine(groups: Array, largest_code: int) -> Fit:
    """Scale and negated minimum of each group (n, 32) -> (n,), (n,), codes (n, 32).

    ggml's `make_qkx2_quants`: after each trial that fits better, the next starts at its minimum.
    """
    columns = groups.T
    weights = root(divide(running_sum(columns * columns), float(AFFINE_GROUP)))
    weights = weights + jnp.abs(columns)
    total, moment = running_sum(weights), running_sum(weights * columns)
    highest, lowest = columns.max(axis=0), jnp.minimum(columns.min(axis=0), 0)

    def code(inverse: Array, low: Array) -> Array:
        return jnp.clip(jnp.round(inverse * (columns - low)), 0, largest_code)

    def error(codes: Array, scale: Array, low: Array) -> Array:
        wrong = rounded(scale * codes) + low - columns
        return running_sum(weights * rounded(wrong * wrong))

    def trial(best: Affine, level: Array) -> tuple[Affine, None]:
        _, low, least, _, _ = best
        inverse = divide(level, highest - low)
        codes = code(inverse, low)
        weighed = rounded(weights * codes)
        first, second = running_sum(weighed), running_sum(weighed * codes)
        cross = running_sum(weighed * columns)
        spread = rounded(total * second) - rounded(first * first)
        new_scale = divide(rounded(total * cross) - rounded(moment * first), spread)
        new_low = divide(rounded(second * moment) - rounded(first * cross), spread)
        new_scale = jnp.where(new_low > 0, divide(cross, second), new_scale)
        new_low = jnp.minimum(new_low, 0)
        wrong = error(codes, new_scale, new_low)
        better = (spread > 0) & (wrong < least)
        found = (new_scale, new_low, wrong, inverse, low)
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best), None

    inverse = divide(float(largest_code), highest - lowest)
    scale = divide(1.0, inverse)
    start = (scale, lowest, error(code(inverse, lowest), scale, lowest), inverse, lowest)
    first, count = AFFINE_TRIALS[largest_code]
    levels = first + np.float32(0.1) * np.arange(count, dtype=np.float32) + np.float32(largest_code)
    (scale, low, _, inverse, origin), _ = lax.scan(trial, start, jnp.array(levels))
    flat = highest == lowest
    draft = jnp.where(flat, 0, code(inverse, origin))
    return jnp.where(flat, 0, scale), -jnp.where(flat, lowest, low), draft.T


def _six_bit_multiples(values: Array) -> tuple[Array, Array]:
    """Non-negative values (n,) -> float16 step (blocks, 1), its uint8 multiples (blocks, 8)."""
    values = values.reshape(-1, AFFINE_GROUPS)
    largest = jnp.maximum(values.max(axis=1, keepdims=True), 0)
    inverse = jnp.where(largest > 0, divide(float(LARGEST_SCALE), largest), 0)
    multiples = jnp.minimum(LARGEST_SCALE, jnp.round(inverse * values).astype(jnp.int32) & 255)
    return divide(largest, float(LARGEST_SCALE)).astype(jnp.float16), multiples.astype(jnp.uint8)


def _pack_scales(scales: Array, lows: Array) -> Array:
    """Six-bit scales and minima (n, 8) each -> 12 bytes: the last four of each are split."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = lows[:, :4] | lows[:, 4:] >> 4 << 6
    third = scales[:, 4:] & 15 | (lows[:, 4:] & 15) << 4
    return jnp.concatenate([first, second, third], axis=1)


def _decode_affine(head: Array, levels: Array) -> Array:
    """16 bytes of each block and codes (n, 8, 32) -> float32 (n, 256)."""
    first, second, third = jnp.split(head[:, 4:], 3, axis=1)
    scales = jnp.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    lows = jnp.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    grid = as_float16(head[:, :2]) * scales
    offset = as_float16(head[:, 2:4]) * lows
    weights = rounded(grid[:, :, None] * levels) - offset[:, :, None]
    return weights.reshape(-1, SUPER_BLOCK)


def _nibbles(low: Array) -> Array:
    """128 bytes of low nibbles -> codes 0..15 (n, 8, 32)."""
    runs = low.reshape(-1, 4, 1, AFFINE_GROUP)
    return (runs >> jnp.uint8([0, 4]).reshape(2, 1) & 15).reshape(-1, AFFINE_GROUPS, AFFINE_GROUP)
