"""Safetensors files: headers first, then one tensor at a time; written whole or not at all.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # its import lets numpy, and so safetensors, know bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from flashjax.types import InputError

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Tensors:
    """Named tensors, read one at a time as float32; `where` is what messages call their source."""

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]

    def under(self, prefix: str) -> "Tensors":
        """Those whose name begins with `prefix`, without it."""
        shapes = {
            name.removeprefix(prefix): shape
            for name, shape in self.shapes.items()
            if name.startswith(prefix)
        }
        return Tensors(f"{self.where} {prefix}", shapes, lambda name: self.read(prefix + name))

    def without(self, *names: str) -> "Tensors":
        """All but `names`."""
        shapes = {name: shape for name, shape in self.shapes.items() if name not in names}
        return Tensors(self.where, shapes, self.read)


def open_safetensors(path: Path | str) -> Tensors:
    """The tensors of one file. InputError if it is missing, cut short or of another format."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a safetensors file")
    try:
        file = safe_open(path, framework="np")
    except SafetensorError as error:
        raise InputError(f"{path} is no whole safetensors file, fetch it anew: {error}") from error
    shapes = {}
    for name in file.keys():
        header = file.get_slice(name)
        if header.get_dtype() not in _DTYPES:
            raise InputError(
                f"{path}: tensor {name} is {header.get_dtype()}; give {', '.join(_DTYPES)} weights"
            )
        shapes[name] = tuple(header.get_shape())
    return Tensors(str(path), shapes, lambda name: file.get_tensor(name).astype(np.float32))


def open_weights(folder: Path | str, stem: str) -> Tensors:
    """The tensors of `stem`.safetensors in `folder`, or of the shards that its index.json lists."""
    folder = Path(folder)
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return open_safetensors(folder / f"{stem}.safetensors")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise InputError(f"{index} has no weight_map: it is not the index of a sharded model")
    shards = {}
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            raise InputError(f"{folder / shard} does not exist: {index.name} lists it, fetch it")
        shards[shard] = open_safetensors(folder / shard)
    lost = [name for name, shard in places.items() if name not in shards[shard].shapes]
    if lost:
        raise InputError(f"{folder / places[lost[0]]} lacks {lost[0]}, which {index.name} lists")
    shapes = {name: shape for shard in shards.values() for name, shape in shard.shapes.items()}
    return Tensors(str(folder), shapes, lambda name: shards[places[name]].read(name))


def write_safetensors(
    path: Path | str,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: Any = np.float16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` in `dtype`, one in memory at a time; the file appears once it is complete.

    `metadata` joins {"format": "pt"} in the header. InputError for weights not finite in `dtype`.
    """
    dtype = np.dtype(dtype)
    if dtype not in _NAMES:
        known = ", ".join(known.name for known in _NAMES)
        raise InputError(f"{path} cannot be written in {dtype.name}: choose one of {known}")
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.size * dtype.itemsize
        entry = {"dtype": _NAMES[dtype], "shape": list(array.shape), "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(Path(path)) as new, new.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in tensors.items():
            file.write(_as(dtype, array, f"{path}: tensor {name}").tobytes())


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file. InputError if it is missing or something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a folder in diffusers' layout")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path for a new file or folder; it takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        new = Path(scratch) / path.name
        yield new
        if path.is_dir():  # a folder that is not empty cannot be replaced in one step
            os.replace(path, Path(scratch) / "old")
        os.replace(new, path)


def _as(dtype: np.dtype, array: np.ndarray, what: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow is what the next line reports
        stored = np.asarray(array).astype(dtype)
    if not np.isfinite(stored).all():
        raise InputError(
            f"{what} is not finite in {dtype.name}: mend the weights, or write bfloat16 or float32"
        )
    return stored
