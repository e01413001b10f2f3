"""Arithmetic that block codecs share: rounded as ggml's C rounds it, and little-endian bytes."""

from collections.abc import Iterable
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FLOAT32_MAX = np.finfo(np.float32).max


def divide(x: jax.Array | float, divisor: jax.Array | float) -> jax.Array:
    """x / divisor, rounded once: XLA would rewrite 1 / (a / b) and division by a constant."""
    shape = jnp.broadcast_shapes(jnp.shape(x), jnp.shape(divisor))
    x = jnp.broadcast_to(jnp.float32(x), shape)
    divisor = lax.optimization_barrier(jnp.broadcast_to(jnp.float32(divisor), shape))

    def mended(x: jax.Array, divisor: jax.Array) -> jax.Array:
        return mend_quotient(x / divisor, x, divisor)

    quotient = lax.platform_dependent(x, divisor, cpu=lax.div, default=mended)
    return lax.optimization_barrier(quotient)


def root(x: jax.Array) -> jax.Array:
    """The square root, rounded once."""
    return lax.platform_dependent(x, cpu=lax.sqrt, default=lambda x: mend_root(lax.sqrt(x), x))


def mend_quotient(quotient: jax.Array, x: jax.Array, divisor: jax.Array) -> jax.Array:
    """The quotient rounded as IEEE 754 asks: accelerators' own are off by up to two last places."""
    better = quotient + residual(x, quotient, divisor) / divisor
    return jnp.where(jnp.isfinite(better) & (quotient != 0), better, quotient)


def mend_root(found: jax.Array, x: jax.Array) -> jax.Array:
    """The square root likewise."""
    return jnp.where(found > 0, found + residual(x, found, found) / (2 * found), found)


def residual(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """x - a b without the rounding of the product, for a b near x.

    Factors are cut into halves whose products are exact, with or without fused additions.
    Source: Dekker, A floating-point technique for extending the available precision, 1971.
    """
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    product = rounded(a * b)
    lost = a_high * b_high - product + a_high * b_low + a_low * b_high + a_low * b_low
    return (x - product) - lost


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Twelve leading bits of each float32, and the rest."""
    bits = lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0xFFFFF000)
    high = lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high


def rounded(product: jax.Array) -> jax.Array:
    """The product as it is, rounded to float32 before anything is added to it.

    A minimum that changes nothing finite keeps compilers from fusing a product into the addition.
    """
    return jnp.minimum(product, FLOAT32_MAX)


def exact_sum(products: Iterable[jax.Array]) -> jax.Array:
    """Sum of products, each rounded first, one after the other: C's order and rounding."""
    return reduce(jnp.add, (rounded(product) for product in products))


def running_sum(terms: jax.Array) -> jax.Array:
    """The sum over the first dim of terms that are there, one after the other, as C adds them."""
    return lax.scan(lambda total, term: (total + term, None), jnp.zeros_like(terms[0]), terms)[0]


def signed_max(rows: jax.Array) -> jax.Array:
    """The first entry of largest magnitude of each row, with its sign."""
    index = jnp.abs(rows).argmax(axis=1, keepdims=True)
    return jnp.take_along_axis(rows, index, axis=1)[:, 0]


def as_bytes(x: jax.Array) -> jax.Array:
    """The bytes of each number, in a last dim of their own unless it is one byte."""
    return lax.bitcast_convert_type(x, jnp.uint8)


def float16_bytes(x: jax.Array) -> jax.Array:
    """(rows, columns) -> little-endian float16 bytes (rows, 2 * columns)."""
    return as_bytes(x.astype(jnp.float16)).reshape(x.shape[0], -1)


def as_float16(codes: jax.Array) -> jax.Array:
    """Little-endian float16 bytes (rows, 2 * columns) -> float32 (rows, columns)."""
    pairs = codes.reshape(codes.shape[0], -1, 2)
    return lax.bitcast_convert_type(pairs, jnp.float16).astype(jnp.float32)


def as_int8(codes: jax.Array) -> jax.Array:
    """Bytes -> the float32 of the signed integers that they are."""
    return lax.bitcast_convert_type(codes, jnp.int8).astype(jnp.float32)
