"""GGUF types that are read and never written: ggml's older blocks of 32, its smallest K types, IQ4.

Source: ggml-quants.c, `dequantize_row_q4_0`, `_q4_1`, `_q5_0`, `_q5_1`, `_q2_K`, `_q3_K`,
`_iq4_nl`, `_iq4_xs`. n counts blocks; codes are uint8 rows, weights float32 rows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.quantize.codecs.blocks import as_float16, rounded

BLOCK, SUPER_BLOCK, GROUP = 32, 256, 16
# The sixteen levels of IQ4, finer where normal weights are.
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _rows(block_bytes: int, decode: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A decoder of rows of one that takes blocks "n bytes" and gives "n weights"."""

    def of_rows(codes: Array) -> Array:
        return decode(codes.reshape(-1, block_bytes)).reshape(codes.shape[0], -1)

    return jax.jit(of_rows)


def _halves(low: Array) -> Array:
    """Sixteen bytes of two nibbles each (n, 16): the low ones first, codes 0..15 (n, 32)."""
    return jnp.concatenate([low & 15, low >> 4], axis=-1)


def _fifth_bits(high: Array) -> Array:
    """Four bytes (n, 4) -> 16 where the bit of a weight is set, else 0 (n, 32)."""
    bits = high[:, :, None] >> jnp.arange(8, dtype=jnp.uint8) & 1
    return bits.reshape(-1, BLOCK) << 4


def _affine(step: Array, codes: Array, minimum: Array) -> Array:
    return rounded(as_float16(step) * codes) + as_float16(minimum)


def _q4_0(blocks: Array) -> Array:
    step, low = jnp.split(blocks, [2], axis=1)
    return as_float16(step) * (_halves(low).astype(jnp.float32) - 8)


def _q4_1(blocks: Array) -> Array:
    step, minimum, low = jnp.split(blocks, [2, 4], axis=1)
    return _affine(step, _halves(low), minimum)


def _q5_0(blocks: Array) -> Array:
    step, high, low = jnp.split(blocks, [2, 6], axis=1)
    codes = _halves(low) | _fifth_bits(high)
    return as_float16(step) * (codes.astype(jnp.float32) - 16)


def _q5_1(blocks: Array) -> Array:
    step, minimum, high, low = jnp.split(blocks, [2, 4, 8], axis=1)
    return _affine(step, _halves(low) | _fifth_bits(high), minimum)


def _two_bits(packed: Array) -> Array:
    """64 bytes of four codes 0..3 each (n, 64): runs of 32 from each half, groups (n, 16, 16)."""
    shifts = jnp.uint8([0, 2, 4, 6]).reshape(4, 1)
    runs = packed.reshape(-1, 2, 1, 32) >> shifts & 3
    return runs.reshape(-1, SUPER_BLOCK // GROUP, GROUP)


def _q2_k(blocks: Array) -> Array:
    scales, packed, step, minimum = jnp.split(blocks, [16, 80, 82], axis=1)
    grid, offset = as_float16(step) * (scales & 15), as_float16(minimum) * (scales >> 4)
    return rounded(grid[:, :, None] * _two_bits(packed)) - offset[:, :, None]


def _q3_k(blocks: Array) -> Array:
    high, packed, small, step = jnp.split(blocks, [32, 96, 108], axis=1)
    # Sixteen scales of six bits: low nibbles of eight bytes, then pairs of bits of four.
    low, pairs = jnp.concatenate([small[:, :8] & 15, small[:, :8] >> 4], axis=1), small[:, None, 8:]
    top = (pairs >> jnp.uint8([0, 2, 4, 6]).reshape(4, 1) & 3).reshape(-1, 16)
    grid = as_float16(step) * ((low | top << 4).astype(jnp.float32) - 32)
    # A set bit of the mask adds 4; without it the code is -4..-1.
    masks = high[:, None] >> jnp.arange(8, dtype=jnp.uint8)[:, None] & 1
    signs = 4 * masks.reshape(-1, SUPER_BLOCK // GROUP, GROUP).astype(jnp.float32) - 4
    return grid[:, :, None] * (_two_bits(packed).astype(jnp.float32) + signs)


def _levels(low: Array) -> Array:
    return jnp.asarray(IQ4_LEVELS, jnp.float32)[_halves(low)]


def _iq4_nl(blocks: Array) -> Array:
    step, low = jnp.split(blocks, [2], axis=1)
    return as_float16(step) * _levels(low)


def _iq4_xs(blocks: Array) -> Array:
    step, high, low, packed = jnp.split(blocks, [2, 4, 8], axis=1)
    nibbles = (low[:, :, None] >> jnp.uint8([0, 4]) & 15).reshape(-1, 8)
    pairs = (high[:, :, None] >> jnp.uint8([0, 2, 4, 6]) & 3).reshape(-1, 8)
    grid = as_float16(step) * ((nibbles | pairs << 4).astype(jnp.float32) - 32)
    return grid[:, :, None] * _levels(packed.reshape(-1, 8, 16))


# name: (ggml's number, weights in a block, bytes of a block, decoder of rows)
DECODERS = {
    "Q4_0": (2, BLOCK, 18, _rows(18, _q4_0)),
    "Q4_1": (3, BLOCK, 20, _rows(20, _q4_1)),
    "Q5_0": (6, BLOCK, 22, _rows(22, _q5_0)),
    "Q5_1": (7, BLOCK, 24, _rows(24, _q5_1)),
    "Q2_K": (10, SUPER_BLOCK, 84, _rows(84, _q2_k)),
    "Q3_K": (11, SUPER_BLOCK, 110, _rows(110, _q3_k)),
    "IQ4_NL": (20, BLOCK, 18, _rows(18, _iq4_nl)),
    "IQ4_XS": (23, SUPER_BLOCK, 136, _rows(136, _iq4_xs)),
}
