"""Safetensors files, read: the header first, then only the bytes that are asked for.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flashjax.convert import mistaken
from flashjax.convert.tensors import Info, Tensors
from flashjax.types import InputError

DTYPES = {  # as the format names them, finest last: the order in which writers sort
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "I64": np.dtype(np.int64),  # position ids of older text encoders: known, to be left out
}
_F64 = np.dtype(np.float64)  # is read in float32: no weight needs more
_UNREAD = {  # what other tensors of a file may be, and their bits; who reads one is refused
    "BOOL": 8, "I16": 16, "U16": 16, "I32": 32, "U64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
_METADATA = "__metadata__"
_LONGEST_HEADER = 100_000_000  # what the format's own reader allows
_MOST_TENSORS = 100_000  # a whole SD3.5 with averages and all encoders has 5,000


def open_safetensors(path: Path | str) -> Tensors:
    """The tensors of one file, as stored.

    InputError if it is missing, cut short, laid out as the format forbids, or of another format;
    for a tensor whose dtype is no weight's once that tensor is read.
    """
    path = Path(path)
    if not path.is_file():
        told = mistaken.other_place(path)
        raise InputError(told or f"{path} does not exist: give a safetensors file")
    header, data = _header(path)
    metadata = header.pop(_METADATA, {})
    infos = {name: _info(entry) for name, entry in header.items()}

    def piece(name: str, start: int, stop: int) -> np.ndarray:
        kind = header[name]["dtype"]
        if kind in _UNREAD:
            raise InputError(
                f"{path}: tensor {name} is {kind}; give weights in {', '.join(DTYPES)}"
            )
        dtype = DTYPES.get(kind, _F64)
        offset = data + header[name]["data_offsets"][0] + start * dtype.itemsize
        stored = np.fromfile(path, dtype, count=stop - start, offset=offset)
        return stored.astype(infos[name].dtype, copy=False)

    return Tensors(str(path), infos, piece, metadata)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file, and where its data starts."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
            raise _broken(path, f"its header would have {length} bytes")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise _broken(path, f"its header is not JSON ({error})") from error
    data = 8 + length
    _check_layout(path, header, path.stat().st_size - data)
    return header, data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return found


def _check_layout(path: Path, header: Any, size: int) -> None:
    """InputError unless the tensors fill `size` bytes one after the other, as the format asks."""
    metadata = header.get(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "its header is no object, or its metadata no texts")
    entries = {name: entry for name, entry in header.items() if name != _METADATA}
    if len(entries) > _MOST_TENSORS:
        raise InputError(f"{path} holds {len(entries)} tensors: no model has so many")
    for name, entry in entries.items():
        _check_entry(path, name, entry)
    end, before = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end:
            what = "overlaps" if start < end else "leaves a hole after"
            raise _broken(path, f"tensor {name} {what} {before}: byte {start}, not {end}")
        end, before = stop, name
    if size != end:
        raise _broken(path, f"it has {size} bytes of tensors, its header tells of {end}")


def _check_entry(path: Path, name: str, entry: Any) -> None:
    """InputError where the header says too little of a tensor, or what cannot be."""
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or not keys <= entry.keys():
        raise _broken(path, f"its header says too little of tensor {name}")
    numbers = [entry["shape"], entry["data_offsets"]]
    whole = all(
        isinstance(part, list) and all(type(n) is int and n >= 0 for n in part) for part in numbers
    )
    if not whole or len(entry["data_offsets"]) != 2:
        raise _broken(path, f"shape or offsets of tensor {name} are no whole numbers")
    kind, (start, stop) = entry["dtype"], entry["data_offsets"]
    bits = {name: 8 * dtype.itemsize for name, dtype in DTYPES.items()} | _UNREAD | {"F64": 64}
    if not isinstance(kind, str) or kind not in bits:
        raise _broken(path, f"tensor {name} is {kind}, a type that the format does not have")
    if 8 * (stop - start) != math.prod(entry["shape"]) * bits[kind]:
        raise _broken(path, f"tensor {name} {tuple(entry['shape'])} has {stop - start} bytes")


def _info(entry: Mapping[str, Any]) -> Info:
    kind = entry["dtype"]
    unread = np.dtype(np.void) if kind in _UNREAD else np.dtype(np.float32)
    return Info(tuple(entry["shape"]), DTYPES.get(kind, unread))


def _broken(path: Path, reason: str) -> InputError:
    told = mistaken.other_file(path)
    return InputError(told or f"{path} is no whole safetensors file, fetch it anew: {reason}")
