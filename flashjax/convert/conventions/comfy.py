"""ComfyUI's markers: a tensor, or metadata, of JSON that says how a layer is kept.

Sources: ComfyUI's QUANTIZATION.md, `comfy/ops.py`, and comfy-kitchen.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flashjax.convert.conventions.stored import FP8, INT8, WEIGHT, Stored, fitted
from flashjax.convert.tensors import Info, Shape, Tensors
from flashjax.types import InputError, listed

MARKER, METADATA = ".comfy_quant", "_quantization_metadata"
BLOCK, CONVROT_GROUP = 128, 256  # where a marker does not say
_KEYS = (  # what a marker may say of a layer; what else it says would change the weight
    "format", "convrot", "convrot_groupsize", "group_size", "params", "full_precision_matrix_mult",
    "per_row", "per_channel", "orig_dtype", "orig_shape",
)  # fmt: skip


def is_told(tensors: Tensors, layer: str) -> bool:
    """Whether ComfyUI's marker says how a layer is kept."""
    return layer + MARKER in tensors or METADATA in tensors.metadata


def comfy(tensors: Tensors) -> Iterator[tuple[str, Stored]]:
    """The layers that ComfyUI's markers tell of, each as its own says."""
    for layer, told in layers_told(tensors).items():
        where = f"{tensors.where}: {layer}{MARKER}"
        if not isinstance(told, dict):
            raise InputError(f"{where} holds no JSON object: write the file anew")
        nested = told.get("params")
        known = (nested if isinstance(nested, dict) else {}) | told
        kind = known.get("format")
        if strange := [key for key in known if key not in _KEYS]:
            raise InputError(f"{where} says {listed(strange)}, which flashjax does not know")
        parts = (layer + WEIGHT, layer + ".weight_scale")
        if lost := [part for part in parts if part not in tensors]:
            raise InputError(f"{where} says {kind!r}, but there is no {lost[0]}")
        codes = tensors.infos[parts[0]]
        if isinstance(kind, str) and kind in FP8:
            yield parts[0], _fp8(parts, codes, FP8[kind], where)
        elif kind in ("int8_tensorwise", "int8_blockwise") and codes.dtype == INT8:
            group = _rotated_group(known, codes.shape, where)
            if kind == "int8_blockwise":
                _check_blocks(known, codes.shape, tensors.shapes[parts[1]], where)
            read = functools.partial(fitted, where, group=group)
            yield parts[0], Stored(parts, codes.shape, read)
        else:
            raise InputError(
                f"{where} says {kind!r} of {codes.dtype.name} codes; flashjax reads "
                f"{', '.join(FP8)}, int8_tensorwise and int8_blockwise: give another format"
            )


def layers_told(tensors: Tensors) -> dict[str, Any]:
    """What a file says of each layer: in tensors that hold JSON, or once in its metadata."""
    found: dict[str, Any] = {}
    text = tensors.metadata.get(METADATA)
    if text is not None:
        where = f"{tensors.where}: {METADATA}"
        told = _json(text.encode(), where).get("layers")
        if not isinstance(told, dict):
            raise InputError(f"{where} has no layers: write the file anew")
        for layer, says in told.items():
            found[_whole_name(tensors, layer)] = {"format": says} if isinstance(says, str) else says
    for name in tensors:
        if name.endswith(MARKER):
            content = tensors[name].tobytes().rstrip(b"\0")
            found[name.removesuffix(MARKER)] = _json(content, f"{tensors.where}: {name}")
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


def _fp8(parts: tuple[str, str], codes: Info, dtype: np.dtype, where: str) -> Stored:
    """Codes of the float8 that the marker names; older files keep them as plain bytes."""
    if codes.dtype not in (dtype, np.dtype(np.uint8)):
        raise InputError(f"{where} says {dtype.name}, but the codes are {codes.dtype.name}")

    def read(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return fitted(where, stored.view(dtype), scale)

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
