"""The packings of three runtimes: ComfyUI's int8 and fp8, MLX's affine bits, torchao's int8.

Sources, against which tests compare byte for byte: comfy-kitchen's eager backend and
`tensor/int8_utils.py`; MLX's `quantize` on CPU; torchao's `Int8Tensor.from_hp`.
"""

import functools
import json
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.convert.conventions.stored import hadamard
from flashjax.quantize.codecs.blocks import divide
from flashjax.quantize.containers.packing import Packing, int8_codes

FP8_MAX = 448.0  # of float8_e4m3fn
LARGEST_ROTATION = 256  # columns that ComfyUI rotates together: a power of 4
MLX_GROUP, MLX_SMALLEST = 64, 1e-7
SMALLEST = 1e-30  # comfy-kitchen's smallest scale
TORCHAO_SMALLEST = float(np.finfo(np.float32).eps)


def _marker(**content: object) -> Array:
    """ComfyUI's JSON about a layer as the tensor that holds its characters."""
    return jnp.array(np.frombuffer(json.dumps(content).encode(), np.uint8))


def _row_scale(weight: Array) -> Array:
    return jnp.maximum(divide(jnp.abs(weight).max(axis=1, keepdims=True), 127.0), SMALLEST)


def _scaled(parts: Mapping[str, Array]) -> Array:
    return parts[".weight"].astype(jnp.float32) * parts[".weight_scale"]


def rotation(columns: int) -> np.ndarray:
    """The matrix "k k" that mixes columns: of the largest power of 4 that divides `columns`."""
    sizes = (256, 64, 16, 4, 1)
    return hadamard(next(k for k in sizes if k <= LARGEST_ROTATION and columns % k == 0))


def rotated(weight: Array) -> Array:
    """The weight "out in" with its columns mixed, group by group; twice is once back."""
    matrix = rotation(weight.shape[1])
    groups = weight.reshape(weight.shape[0], -1, len(matrix))
    return jnp.einsum("ogk,jk->ogj", groups, matrix, precision="highest").reshape(weight.shape)


def _rotated_marker(weight: Array) -> Array:
    size = len(rotation(weight.shape[1]))
    return _marker(format="int8_tensorwise", convrot=True, convrot_groupsize=size)


def _rotated_codes(weight: Array) -> Array:
    weight = rotated(weight)
    return int8_codes(weight, _row_scale(weight))


def _fp8_scale(weight: Array) -> Array:
    return jnp.maximum(divide(jnp.abs(weight).max(), FP8_MAX), SMALLEST)


def _fp8_codes(weight: Array) -> Array:
    scaled = weight * divide(1.0, _fp8_scale(weight))
    return jnp.clip(scaled, -FP8_MAX, FP8_MAX).astype(jnp.float8_e4m3fn)


COMFY_INT8 = Packing(
    "comfy-int8",
    1,
    {
        ".weight": lambda weight: int8_codes(weight, _row_scale(weight)),
        ".weight_scale": _row_scale,
        ".comfy_quant": lambda _: _marker(format="int8_tensorwise"),
    },
    _scaled,
)
ROW_INT8 = Packing(
    "row-int8",
    1,
    {
        ".weight": lambda weight: int8_codes(weight, _row_scale(weight)),
        ".weight_scale": _row_scale,
    },
    _scaled,
)
COMFY_INT8_ROTATED = Packing(
    "comfy-int8-convrot",
    4,
    {
        ".weight": _rotated_codes,
        ".weight_scale": lambda weight: _row_scale(rotated(weight)),
        ".comfy_quant": _rotated_marker,
    },
    lambda parts: rotated(_scaled(parts)),
)
COMFY_FP8 = Packing(
    "comfy-fp8",
    1,
    {
        ".weight": _fp8_codes,
        ".weight_scale": _fp8_scale,
        ".comfy_quant": lambda _: _marker(format="float8_e4m3fn"),
    },
    _scaled,
)


def _affine(weight: Array, bits: int) -> tuple[Array, Array, Array]:
    """MLX's codes (out, groups, 64), scales and biases (out, groups, 1), all float32.

    The edge of larger magnitude becomes the bias, and the scale such that zero is a code.
    """
    top = 2**bits - 1
    groups = weight.reshape(weight.shape[0], -1, MLX_GROUP)
    low, high = groups.min(axis=2, keepdims=True), groups.max(axis=2, keepdims=True)
    scale = jnp.maximum(divide(high - low, float(top)), MLX_SMALLEST)
    below = jnp.abs(low) > jnp.abs(high)
    scale = jnp.where(below, scale, -scale)
    edge = jnp.where(below, low, high)
    steps = jnp.round(divide(edge, scale))
    scale = jnp.where(steps == 0, scale, divide(edge, steps))
    bias = jnp.where(steps == 0, 0, edge)
    return jnp.clip(jnp.round(divide(groups - bias, scale)), 0, top), scale, bias


def _stream(codes: Array, bits: int) -> Array:
    """Codes (out, groups, 64) as one little-endian stream of bits: uint32 (out, in * bits / 32)."""
    each = codes.astype(jnp.uint32)[..., None] >> jnp.arange(bits, dtype=jnp.uint32) & 1
    words = each.reshape(codes.shape[0], -1, 32) << jnp.arange(32, dtype=jnp.uint32)
    return words.sum(axis=2, dtype=jnp.uint32)


def _from_stream(words: Array, bits: int) -> Array:
    """The inverse of `_stream`: float32 codes (out, groups, 64)."""
    each = (words[..., None] >> jnp.arange(32, dtype=jnp.uint32) & 1).reshape(len(words), -1, bits)
    codes = (each << jnp.arange(bits, dtype=jnp.uint32)).sum(axis=2, dtype=jnp.uint32)
    return codes.reshape(len(words), -1, MLX_GROUP).astype(jnp.float32)


@functools.cache
def mlx_affine(bits: int) -> Packing:
    """MLX's affine codes of 2 to 8 bits in groups of 64, scales and biases in float16."""

    def flat(array: Array) -> Array:
        return array[..., 0].astype(jnp.float16)

    def unpack(parts: Mapping[str, Array]) -> Array:
        scale, bias = (parts[key].astype(jnp.float32)[..., None] for key in (".scales", ".biases"))
        weight = _from_stream(parts[".weight"], bits) * scale + bias
        return weight.reshape(len(weight), -1)

    return Packing(
        f"mlx-{bits}",
        MLX_GROUP,
        {
            ".weight": lambda weight: _stream(_affine(weight, bits)[0], bits),
            ".scales": lambda weight: flat(_affine(weight, bits)[1]),
            ".biases": lambda weight: flat(_affine(weight, bits)[2]),
        },
        unpack,
    )


def _torchao_scale(weight: Array) -> Array:
    return jnp.maximum(divide(jnp.abs(weight).max(axis=1, keepdims=True), 127.5), TORCHAO_SMALLEST)


def _torchao_codes(weight: Array) -> Array:
    inverse = divide(1.0, _torchao_scale(weight))
    return jnp.clip(jnp.round(weight * inverse), -128, 127).astype(jnp.int8)


TORCHAO_INT8 = Packing(
    "torchao-int8",
    1,
    {
        "._weight_qdata": _torchao_codes,
        "._weight_scale": _torchao_scale,
        "._weight_zero_point": lambda weight: jnp.zeros((weight.shape[0], 1), jnp.int8),
    },
    lambda parts: parts["._weight_qdata"].astype(jnp.float32) * parts["._weight_scale"],
)
