"""Core ML's two packings of a weight: palettes of 64 values, and int8 with a scale per output.

Source: coremltools, `constexpr_lut_to_dense` and `constexpr_affine_dequantize` of iOS 16.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from flashjax.quantize.codecs.blocks import divide
from flashjax.quantize.containers.packing import SCALE, WEIGHT, Packing, int8_codes

BITS = 6
INDICES, LUT = ".indices", ".lut"
HALVES = 2**16  # all there are of float16: what a weight can be, at most
ROUNDS, CELLS = 60, 512  # of Lloyd's algorithm, and of the weights' range to begin with
SMALLEST_SCALE = 2.0**-24  # of float16, subnormal


def palette(weight: Array) -> tuple[Array, Array]:
    """The 64 values, float16 and increasing, that stand for a weight best; uint8 index "out in".

    One-dimensional k-means. A weight has at most 65,536 different values in float16: counts take
    the place of the weights, and what lies in a cell is a difference of two running sums.
    """
    halves = lax.bitcast_convert_type(weight.astype(jnp.float16), jnp.uint16)
    counts = jnp.bincount(halves.reshape(-1), length=HALVES).astype(jnp.float32)
    every = np.arange(HALVES, dtype=np.uint16).view(np.float16).astype(np.float32)
    order = np.argsort(every)  # not-a-number comes last, and never occurs
    most = float(jnp.finfo(jnp.float16).max)
    values = jnp.asarray(np.nan_to_num(every, nan=most, posinf=most, neginf=-most)[order])
    counts = counts[order]
    number, total = _sums(counts), _sums(counts * values)

    def round_(_: int, centres: Array) -> Array:
        ends = jnp.searchsorted(values, (centres[1:] + centres[:-1]) / 2, side="right")
        first, last = jnp.append(0, ends), jnp.append(ends, HALVES)
        inside = number(first, last)
        mean = total(first, last) / jnp.maximum(inside, 1)
        return jnp.sort(jnp.where(inside > 0, mean, centres))

    centres = lax.fori_loop(0, ROUNDS, round_, _first_centres(values, counts))
    centres = centres.astype(jnp.float16)
    limits = centres.astype(jnp.float32)
    index = jnp.searchsorted((limits[1:] + limits[:-1]) / 2, values)
    of_half = jnp.zeros(HALVES, jnp.uint8).at[order].set(index.astype(jnp.uint8))
    return centres, of_half[halves]


def _sums(x: Array) -> Callable[[Array, Array], Array]:
    """`between(first, last)`, sums of `x` from one place to before another.

    What is below the middle is summed from the lower end and what is above it from the upper one:
    a few outliers would be lost in the rounding of a sum of all the rest.
    """
    middle = len(x) // 2
    below = jnp.append(0, jnp.cumsum(x[:middle]))
    above = jnp.append(-jnp.cumsum(x[middle:][::-1])[::-1], 0)
    sums, whole = jnp.concatenate([below, above[1:]]), below[-1] - above[0]

    def between(first: Array, last: Array) -> Array:
        across = (first <= middle) & (last > middle)
        return sums[last] - sums[first] + jnp.where(across, whole, 0)

    return between


def _first_centres(values: Array, counts: Array) -> Array:
    """The best palette if weights of one cell had to stay together, by dynamic programming.

    Cells are as fine as their share of the centres asks: between quantiles of equal probability
    width^(2/3), whatever the tails (Panter and Dite 1951). Lloyd's algorithm alone, from there,
    would leave outliers where it found them.
    """
    rank = jnp.cumsum(counts)
    quantiles = jnp.clip(jnp.linspace(0, 1, 2 * CELLS) * rank[-1], 1, None)
    points = values[jnp.searchsorted(rank, quantiles)]
    share = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.cbrt(jnp.square(jnp.diff(points))))])
    edges = jnp.interp(jnp.arange(1, CELLS) / CELLS * share[-1], share, points)
    cell = jnp.searchsorted(edges, values)
    moments = (jax.ops.segment_sum(counts * values**power, cell, CELLS) for power in (0, 1, 2))
    number, total, square = (jnp.concatenate([jnp.zeros(1), jnp.cumsum(m)]) for m in moments)
    between = lambda sums: sums[None, 1:] - sums[:-1, None]  # from cell "i" to cell "j", both in
    spread = between(square) - between(total) ** 2 / jnp.maximum(between(number), 1)
    cost = jnp.where(jnp.tri(CELLS, k=-1, dtype=bool), jnp.inf, jnp.maximum(spread, 0))

    def one_more(best: Array, _: None) -> tuple[Array, Array]:
        before = jnp.concatenate([jnp.zeros(1), best[:-1]])
        sums = before[:, None] + cost
        return sums.min(axis=0), sums.argmin(axis=0)

    def back(last: Array, first_of: Array) -> tuple[Array, Array]:
        first = first_of[last]
        mean = (total[last + 1] - total[first]) / jnp.maximum(number[last + 1] - number[first], 1)
        return jnp.maximum(first - 1, 0), mean

    _, firsts = lax.scan(one_more, cost[0], length=2**BITS - 1)
    firsts = jnp.concatenate([jnp.zeros((1, CELLS), firsts.dtype), firsts])
    _, centres = lax.scan(back, jnp.array(CELLS - 1, firsts.dtype), firsts, reverse=True)
    return jnp.sort(centres)


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
