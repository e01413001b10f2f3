"""Codecs of GGUF as pure JAX: float32 rows to block bytes and back, one `Codec` for each type.

Blocks are runs of consecutive columns and do not know each other, so rows may be cut, stacked or
sharded freely. Byte layouts and rounding follow ggml's reference (`quantize_row_*_ref`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from flashjax.quantize.codecs.blocks import as_bytes, as_float16, as_int8, divide, float16_bytes
from flashjax.quantize.codecs.decoders import DECODERS
from flashjax.quantize.codecs.kquants import (
    Q4_BYTES,
    Q5_BYTES,
    Q6_BYTES,
    SUPER_BLOCK,
    decode_q4_k,
    decode_q5_k,
    decode_q6_k,
    encode_q4_k,
    encode_q5_k,
    encode_q6_k,
)
from flashjax.types import InputError

Q8_BLOCK, Q8_BYTES = 32, 34


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
    encode: Callable[..., jax.Array]
    decode: Callable[..., jax.Array]

    def encoded_bytes(self, weights: int) -> int:
        """Bytes that `weights` consecutive weights take."""
        return weights // self.block * self.block_bytes


@jax.jit
def encode_q8_0(x: jax.Array) -> jax.Array:
    """Q8_0: 32 weights as one float16 step amax/127 and 32 int8 codes. float32 -> uint8 rows."""
    blocks = x.reshape(-1, Q8_BLOCK)
    step = divide(jnp.abs(blocks).max(axis=1, keepdims=True), 127.0)
    inverse = jnp.where(step == 0, 0, divide(1.0, step))  # of the step before float16 rounds it
    codes = lax.round(blocks * inverse, lax.RoundingMethod.AWAY_FROM_ZERO).astype(jnp.int8)
    return jnp.concatenate([float16_bytes(step), as_bytes(codes)], axis=1).reshape(x.shape[0], -1)


@jax.jit
def decode_q8_0(codes: jax.Array) -> jax.Array:
    """Q8_0 uint8 rows -> float32 rows: step * code."""
    blocks = codes.reshape(-1, Q8_BYTES)
    return (as_float16(blocks[:, :2]) * as_int8(blocks[:, 2:])).reshape(codes.shape[0], -1)


def _float32_bytes(x: jax.Array) -> jax.Array:
    return as_bytes(x).reshape(x.shape[0], -1)


def _float32(codes: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(codes.reshape(codes.shape[0], -1, 4), jnp.float32)


def _bfloat16_bytes(x: jax.Array) -> jax.Array:
    return as_bytes(x.astype(jnp.bfloat16)).reshape(x.shape[0], -1)


def _bfloat16(codes: jax.Array) -> jax.Array:
    pairs = codes.reshape(codes.shape[0], -1, 2)
    return lax.bitcast_convert_type(pairs, jnp.bfloat16).astype(jnp.float32)


F32 = Codec("F32", 0, 1, 4, jax.jit(_float32_bytes), jax.jit(_float32))
F16 = Codec("F16", 1, 1, 2, jax.jit(float16_bytes), jax.jit(as_float16))
BF16 = Codec("BF16", 30, 1, 2, jax.jit(_bfloat16_bytes), jax.jit(_bfloat16))
Q8_0 = Codec("Q8_0", 8, Q8_BLOCK, Q8_BYTES, encode_q8_0, decode_q8_0)
Q6_K = Codec("Q6_K", 14, SUPER_BLOCK, Q6_BYTES, encode_q6_k, decode_q6_k)
Q5_K = Codec("Q5_K", 13, SUPER_BLOCK, Q5_BYTES, encode_q5_k, decode_q5_k)
Q4_K = Codec("Q4_K", 12, SUPER_BLOCK, Q4_BYTES, encode_q4_k, decode_q4_k)
CODECS = (F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K)  # that are written, too


def _unwritten(x: jax.Array) -> jax.Array:
    raise InputError("this type of GGUF is read and never written: choose another")


READ_ONLY = tuple(
    Codec(name, number, block, block_bytes, _unwritten, decode)
    for name, (number, block, block_bytes, decode) in DECODERS.items()
)
# Names of the types that neither is: ggml's numbers, for messages.
UNREAD = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S",
    22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
