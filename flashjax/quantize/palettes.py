"""Core ML's two packings of a weight: palettes of 64 values, and int8 with a scale per output.

Source: coremltools, `constexpr_lut_to_dense` and `constexpr_affine_dequantize` of iOS 16.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from flashjax.quantize.blocks import divide
from flashjax.quantize.packing import SCALE, WEIGHT, Packing, int8_codes

BITS = 6
INDICES, LUT = ".indices", ".lut"
HALVES = 2**16  # all there are of float16: what a weight can be, at most
ROUNDS, QUANTILES = 100, 513  # of Lloyd's algorithm, and of the weights to begin with
SMALLEST_SCALE = 2.0**-24  # of float16, subnormal


def palette(weight: Array) -> tuple[Array, Array]:
    """The 64 values, float16 and increasing, that stand for a weight best; uint8 index "out in".

    One-dimensional k-means. A weight has at most 65,536 different values in float16, so that a
    round costs as much for any weight: counts take the place of the weights.
    """
    halves = lax.bitcast_convert_type(weight.astype(jnp.float16), jnp.uint16)
    counts = jnp.bincount(halves.reshape(-1), length=HALVES).astype(jnp.float32)
    every = lax.bitcast_convert_type(jnp.arange(HALVES, dtype=jnp.uint16), jnp.float16)
    order = jnp.argsort(every.astype(jnp.float32))  # not-a-number comes last, and never occurs
    values = jnp.where(jnp.isfinite(every), every, 0).astype(jnp.float32)[order]
    counts = counts[order]

    def nearest(centres: Array) -> Array:
        return jnp.searchsorted((centres[1:] + centres[:-1]) / 2, values)

    def round_(_: int, centres: Array) -> Array:
        index = nearest(centres)
        total = jax.ops.segment_sum(counts, index, 2**BITS)
        mean = jax.ops.segment_sum(counts * values, index, 2**BITS) / jnp.maximum(total, 1)
        return jnp.sort(jnp.where(total > 0, mean, centres))

    centres = lax.fori_loop(0, ROUNDS, round_, _first_centres(values, counts))
    centres = centres.astype(jnp.float16)
    index = nearest(centres.astype(jnp.float32))
    of_half = jnp.zeros(HALVES, jnp.uint8).at[order].set(index.astype(jnp.uint8))
    return centres, of_half[halves]


def _first_centres(values: Array, counts: Array) -> Array:
    """As dense as the cube root of the weights' density, which is best for many centres.

    Between quantiles of equal probability the density is 1 / width, so that a gap's share of the
    centres is width^(2/3), whatever the tails. Source: Panter and Dite 1951.
    """
    rank = jnp.cumsum(counts)
    wanted = jnp.clip(jnp.linspace(0, 1, QUANTILES) * rank[-1], 1, None)
    points = values[jnp.searchsorted(rank, wanted)]
    share = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.cbrt(jnp.square(jnp.diff(points))))])
    return jnp.interp((jnp.arange(2**BITS) + 0.5) / 2**BITS * share[-1], share, points)


def _six_bits(index: Array) -> Array:
    """Indices "out in" below 64 -> bytes (out, in * 6 / 8): a stream, lowest bits first."""
    four = index.astype(jnp.uint32).reshape(len(index), -1, 4)
    word = (four << (BITS * jnp.arange(4, dtype=jnp.uint32))).sum(axis=2, dtype=jnp.uint32)
    three = word[..., None] >> (8 * jnp.arange(3, dtype=jnp.uint32)) & 255
    return three.astype(jnp.uint8).reshape(len(index), -1)


def _from_six_bits(stream: Array) -> Array:
    """The inverse of `_six_bits`."""
    three = stream.astype(jnp.uint32).reshape(len(stream), -1, 3)
    word = (three << (8 * jnp.arange(3, dtype=jnp.uint32))).sum(axis=2, dtype=jnp.uint32)
    four = word[..., None] >> (BITS * jnp.arange(4, dtype=jnp.uint32)) & (2**BITS - 1)
    return four.reshape(len(stream), -1)


def _scale(weight: Array) -> Array:
    """A step for each output, as float16 keeps it; the codes are rounded with that."""
    exact = divide(jnp.abs(weight).max(axis=1, keepdims=True), 127.0)
    return jnp.maximum(exact, SMALLEST_SCALE).astype(jnp.float16)


PALETTE = Packing(
    "coreml-lut6",
    4,
    {
        INDICES: lambda weight: _six_bits(palette(weight)[1]),
        LUT: lambda weight: palette(weight)[0],
    },
    lambda parts: parts[LUT].astype(jnp.float32)[_from_six_bits(parts[INDICES])],
)
HALF_SCALED_INT8 = Packing(
    "coreml-int8",
    1,
    {
        WEIGHT: lambda weight: int8_codes(weight, _scale(weight).astype(jnp.float32)),
        SCALE: _scale,
    },
    lambda parts: (parts[WEIGHT].astype(jnp.float16) * parts[SCALE]).astype(jnp.float32),
)
