"""Weights that a file keeps as codes and scales: each convention in use is undone, or named.

Sources: ComfyUI's QUANTIZATION.md, `comfy/ops.py` and comfy-kitchen; compressed-tensors; DeepSeek's
block scales; torchao's `Int8Tensor`; optimum-quanto's `QBytesTensor`; bitsandbytes' `Int8Params`;
MLX's `quantize`.
"""

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from flashjax.convert.tensors import Info, Shape, Tensors
from flashjax.types import InputError, listed

WEIGHT, ZERO_POINT = ".weight", "weight_zero_point"
COMFY, COMFY_METADATA = ".comfy_quant", "_quantization_metadata"
MLX_BITS, MLX_GROUPS = (2, 3, 4, 5, 6, 8), (64, 32, 128)  # the usual group first
BLOCK, CONVROT_GROUP = 128, 256  # where ComfyUI's marker does not say
_INT8 = np.dtype(np.int8)
_FP8 = {
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
_CODES = (_INT8, *_FP8.values())
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a block
_COMFY_KEYS = (  # what a marker may say of a layer; what else it says would change the weight
    "format", "convrot", "convrot_groupsize", "group_size", "params", "full_precision_matrix_mult",
    "per_row", "per_channel", "orig_dtype", "orig_shape",
)  # fmt: skip
# What ends the name of a scale; of the codes; of zero points. {} is the layer.
_PLAIN = (
    ("{}.weight_scale", "{}.weight", "{}.weight_zero_point"),
    ("{}.scale_weight", "{}.weight", ""),
    ("{}.weight_scale_inv", "{}.weight", ""),
    ("{}._weight_scale", "{}._weight_qdata", "{}._weight_zero_point"),
    ("{}.weight._scale", "{}.weight._data", ""),
    ("{}.SCB", "{}.weight", ""),
)
# Of activations, of a layout that is the only one, or a marker: nothing that a weight depends on.
_LEFT_OUT = (".input_scale", ".scale_input", ".output_scale", ".weight_format", "scaled_fp8")
_REFUSED = {  # the end of a name: whose it is
    ".absmax": "bitsandbytes' 4 bits",
    ".qweight": "GPTQ's, AWQ's or SVDQuant's packed codes",
    ".weight_packed": "compressed-tensors' packed codes",
    ".W_q": "HQQ's packed codes",
    ".weight._packed": "quanto's packed codes",
    ".weight._shift": "quanto's packed codes",
    ".pre_quant_scale": "ModelOpt's smoothing",
    ".weight_scale_2": "NVFP4",
}


@dataclass(frozen=True)
class Stored:
    """How one weight is kept: the tensors that it takes, what it becomes, and how it is computed.

    `read` takes the arrays of `parts` in order, and gives `shape` in float32.
    """

    parts: tuple[str, ...]
    shape: Shape
    read: Callable[..., np.ndarray]


def dequantised(tensors: Tensors) -> Tensors:
    """The tensors with every weight that is kept as codes and scales in float32; others as is.

    InputError names a convention that is not known, a part that is missing or does not fit.
    """
    refused = {
        name: whose
        for name in tensors
        for end, whose in _REFUSED.items()
        if name.endswith(end) and not _told(tensors, name.removesuffix(end))
    }
    if refused:
        raise InputError(
            f"{tensors.where}: {listed(list(refused))}: {next(iter(refused.values()))}, which "
            "flashjax does not read; give the model in 16 bits, 8 bits or GGUF"
        )
    found: dict[str, Stored] = {}
    for name, stored in itertools.chain(_comfy(tensors), _plain(tensors), _mlx(tensors)):
        if name in found:
            ways = ", ".join((*found[name].parts[1:], *stored.parts[1:]))
            raise InputError(f"{tensors.where}: {name} has scales in two ways: {ways}; keep one")
        found[name] = stored
    _check_scales(tensors, found)
    _check_siblings(tensors, found)
    used = {name for name in tensors if name.endswith((*_LEFT_OUT, COMFY))}
    used |= {part for stored in found.values() for part in stored.parts}
    if not used:
        return tensors
    made = {name: Info(stored.shape, np.dtype(np.float32)) for name, stored in found.items()}

    def read(name: str) -> np.ndarray:
        stored = found[name]
        return stored.read(*(tensors[part] for part in stored.parts))

    metadata = {key: text for key, text in tensors.metadata.items() if key != COMFY_METADATA}
    if metadata.get("format") == "mlx":
        metadata["format"] = "pt"
    plain = tensors.overlaid(made, read, without=used)
    return Tensors(plain.where, plain.infos, plain.piece, metadata)


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


def _check_scales(tensors: Tensors, found: Mapping[str, Stored]) -> None:
    """InputError for a scale that is itself a code, as MXFP8's exponents are: no factor.

    Zero points are whole numbers.
    """
    scales = [part for stored in found.values() for part in stored.parts[1:]]
    codes = [
        f"{name} is {tensors.infos[name].dtype.name}"
        for name in scales
        if not name.endswith(ZERO_POINT)
        and not jnp.issubdtype(tensors.infos[name].dtype, jnp.floating)
    ]
    if codes:
        raise InputError(
            f"{tensors.where}: {listed(codes)}: codes of scales (MXFP8's?), which flashjax does "
            "not read; give the model in 16 bits, 8 bits with scales in floats, or GGUF"
        )


def _check_siblings(tensors: Tensors, found: Mapping[str, Stored]) -> None:
    """InputError for codes without a scale where the same layer of another block has one.

    In 8-bit floats they would pass for weights.
    """
    scales = {_NUMBER.sub("#", name): stored.parts for name, stored in found.items()}
    for name, info in tensors.infos.items():
        parts = scales.get(_NUMBER.sub("#", name))
        if parts and name not in found and info.dtype in _CODES:
            raise InputError(
                f"{tensors.where}: {name} is {info.dtype.name} without a scale, and others like "
                f"it have one ({parts[1]}): the file is not whole"
            )


def _told(tensors: Tensors, layer: str) -> bool:
    """Whether ComfyUI's marker says how a layer is kept."""
    return layer + COMFY in tensors or COMFY_METADATA in tensors.metadata


def _comfy(tensors: Tensors) -> Iterator[tuple[str, Stored]]:
    """The layers that ComfyUI's markers tell of, each as its own says."""
    for layer, told in _comfy_layers(tensors).items():
        where = f"{tensors.where}: {layer}{COMFY}"
        if not isinstance(told, dict):
            raise InputError(f"{where} holds no JSON object: write the file anew")
        nested = told.get("params")
        known = (nested if isinstance(nested, dict) else {}) | told
        kind = known.get("format")
        if strange := [key for key in known if key not in _COMFY_KEYS]:
            raise InputError(f"{where} says {listed(strange)}, which flashjax does not know")
        parts = (layer + WEIGHT, layer + ".weight_scale")
        if lost := [part for part in parts if part not in tensors]:
            raise InputError(f"{where} says {kind!r}, but there is no {lost[0]}")
        codes = tensors.infos[parts[0]]
        if isinstance(kind, str) and kind in _FP8:
            yield parts[0], _comfy_fp8(parts, codes, _FP8[kind], where)
        elif kind in ("int8_tensorwise", "int8_blockwise") and codes.dtype == _INT8:
            group = _rotated_group(known, codes.shape, where)
            if kind == "int8_blockwise":
                _check_blocks(known, codes.shape, tensors.shapes[parts[1]], where)
            read = functools.partial(_fitted, where, group=group)
            yield parts[0], Stored(parts, codes.shape, read)
        else:
            raise InputError(
                f"{where} says {kind!r} of {codes.dtype.name} codes; flashjax reads "
                f"{', '.join(_FP8)}, int8_tensorwise and int8_blockwise: give another format"
            )


def _comfy_layers(tensors: Tensors) -> dict[str, Any]:
    """What a file says of each layer: in tensors that hold JSON, or once in its metadata."""
    found: dict[str, Any] = {}
    text = tensors.metadata.get(COMFY_METADATA)
    if text is not None:
        where = f"{tensors.where}: {COMFY_METADATA}"
        told = _json(text.encode(), where).get("layers")
        if not isinstance(told, dict):
            raise InputError(f"{where} has no layers: write the file anew")
        for layer, says in told.items():
            found[_whole_name(tensors, layer)] = {"format": says} if isinstance(says, str) else says
    for name in tensors:
        if name.endswith(COMFY):
            content = tensors[name].tobytes().rstrip(b"\0")
            found[name.removesuffix(COMFY)] = _json(content, f"{tensors.where}: {name}")
    return found


def _whole_name(tensors: Tensors, layer: str) -> str:
    """The layer's name with the prefix that metadata may leave out."""
    ends = [name for name in tensors if f".{name}".endswith(f".{layer}{WEIGHT}")]
    return ends[0].removesuffix(WEIGHT) if len(ends) == 1 else layer


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}): write the file anew") from error
    if not isinstance(found, dict):
        raise InputError(f"{where} holds no JSON object: write the file anew")
    return found


def _comfy_fp8(parts: tuple[str, str], codes: Info, dtype: np.dtype, where: str) -> Stored:
    """Codes of the float8 that the marker names; older files keep them as plain bytes."""
    if codes.dtype not in (dtype, np.dtype(np.uint8)):
        raise InputError(f"{where} says {dtype.name}, but the codes are {codes.dtype.name}")

    def read(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return _fitted(where, stored.view(dtype), scale)

    return Stored(parts, codes.shape, read)


def _rotated_group(known: Mapping[str, Any], shape: Shape, where: str) -> int:
    """How many columns were rotated together; 1 where none were."""
    if not known.get("convrot"):
        return 1
    group = known.get("convrot_groupsize", CONVROT_GROUP)
    powers = [4**power for power in range(1, 8)]
    if group not in powers or len(shape) != 2 or shape[1] % group:
        raise InputError(f"{where} says convrot_groupsize {group!r} of {shape}: it cannot be")
    return group


def _check_blocks(known: Mapping[str, Any], shape: Shape, scales: Shape, where: str) -> None:
    """InputError unless there is a scale for each square block of the size that is told."""
    block = known.get("group_size", BLOCK)
    if type(block) is not int or scales != tuple(-(-size // block) for size in shape):
        raise InputError(f"{where} says blocks of {block!r}; scales {scales} of {shape} are none")


def _fitted(
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


def _plain(tensors: Tensors) -> Iterator[tuple[str, Stored]]:
    """Codes with scales beside them that no marker tells of."""
    told = set(_comfy_layers(tensors))
    for name in tensors:
        for scale, codes, zero in _PLAIN:
            layer = name.removesuffix(scale.format(""))
            if layer == name or layer in told:
                continue
            parts = [codes.format(layer), name]
            where = f"{tensors.where}: {name}"
            if parts[0] not in tensors:
                raise InputError(f"{where} is there, but not {parts[0]}: the file is not whole")
            info = tensors.infos[parts[0]]
            if info.dtype not in _CODES:
                raise InputError(
                    f"{where} is there, but {parts[0]} is {info.dtype.name}, no codes of 8 bits "
                    "that a scale could be of: it may be applied already"
                )
            if zero and zero.format(layer) in tensors:
                parts.append(zero.format(layer))
            _check_row_layout(tensors, layer)
            factor = 1 / 127 if scale.endswith(".SCB") else 1.0
            read = functools.partial(_fitted, where, factor=factor)
            yield layer + WEIGHT, Stored(tuple(parts), info.shape, read)


def _check_row_layout(tensors: Tensors, layer: str) -> None:
    """InputError where bitsandbytes tiled the codes for one kind of GPU."""
    name = layer + ".weight_format"
    if name in tensors and tensors[name].any():
        raise InputError(f"{tensors.where}: {name} is not row by row: save the model anew")


def _mlx(tensors: Tensors) -> Iterator[tuple[str, Stored]]:
    """Codes of a few bits as one stream of 32-bit words, with scales and biases of groups."""
    words = np.dtype(np.uint32)
    found: dict[tuple[str, str, str], tuple[int, int]] = {}
    for name, info in tensors.infos.items():
        layer = name.removesuffix(".scales")
        parts = (layer + WEIGHT, name, layer + ".biases")
        if layer == name:
            continue
        flat = len(info.shape) != 2 or len(tensors.shapes.get(parts[0], ())) != 2
        if flat or parts[2] not in tensors or tensors.infos[parts[0]].dtype != words:
            raise InputError(f"{tensors.where}: {name} is neither MLX's nor known: {parts[0]}?")
        found[parts] = tensors.infos[parts[0]].shape[1], info.shape[1]
    group = _mlx_group(tensors, found) if found else 0
    for parts, (given, groups) in found.items():
        shape = (tensors.shapes[parts[1]][0], groups * group)
        read = functools.partial(_affine, bits=32 * given // (groups * group))
        yield parts[0], Stored(parts, shape, read)


def _mlx_group(tensors: Tensors, found: Mapping[tuple[str, str, str], tuple[int, int]]) -> int:
    """How many columns share a scale in a file; `found` has each layer's words and groups.

    Half the columns of twice the bits are as many words. But what comes into a layer has come out
    of another, whose rows say how many: that group is taken with which most layers agree.
    InputError where two fit as well, or none.
    """
    rows = {shape[0] for shape in tensors.shapes.values() if shape}
    agreed = {
        group: sum(groups * group in rows for _, groups in found.values())
        for group in MLX_GROUPS
        if all(_mlx_bits(*sizes, group) in MLX_BITS for sizes in found.values())
    }
    best = [group for group, count in agreed.items() if count == max(agreed.values())]
    if len(best) == 1:
        return best[0]
    told = (
        f"with as good reason have {' or '.join(map(str, best))} columns" if best else "be no MLX's"
    )
    raise InputError(
        f"{tensors.where}: the groups of {listed([weight for weight, *_ in found], most=1)} may "
        f"{told}: give the model in 16 bits or GGUF"
    )


def _mlx_bits(given: int, groups: int, group: int) -> float:
    """The bits of a code in `given` words."""
    return 32 * given / (groups * group)


def _affine(words: np.ndarray, scales: np.ndarray, biases: np.ndarray, *, bits: int) -> np.ndarray:
    """code * scale + bias, in groups of columns."""
    each = words[..., None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
    places = np.uint32(1) << np.arange(bits, dtype=np.uint32)
    codes = (each.reshape(len(words), scales.shape[1], -1, bits) * places).sum(axis=3)
    scale, bias = (part.astype(np.float32)[..., None] for part in (scales, biases))
    weight = codes.astype(np.float32) * scale + bias
    return weight.reshape(len(words), -1)
