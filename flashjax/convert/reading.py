"""Safetensors files, read: the header first, then only the bytes that are asked for.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flashjax.convert.tensors import Info, Tensors, joined
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
_METADATA = "__metadata__"
_PICKLES = (".bin", ".pth", ".pt", ".ckpt")
_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "read = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "save_file({name: x.clone().contiguous() for name, x in read.items()}, sys.argv[2])"
)
_LONGEST_HEADER = 100_000_000  # what the format's own reader allows


def open_safetensors(path: Path | str) -> Tensors:
    """The tensors of one file. InputError if it is missing, cut short or of another format."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a safetensors file")
    header, data = _header(path)
    metadata = header.pop(_METADATA, {})
    infos, starts = {}, {}
    for name, entry in header.items():
        infos[name], starts[name] = _info(path, name, entry), data + entry["data_offsets"][0]

    def piece(name: str, start: int, stop: int) -> np.ndarray:
        dtype = infos[name].dtype
        offset = starts[name] + start * dtype.itemsize
        return np.fromfile(path, dtype, count=stop - start, offset=offset)

    return Tensors(str(path), infos, piece, metadata)


def open_weights(folder: Path | str, stem: str) -> Tensors:
    """The tensors of `stem`.safetensors in `folder`, or of the shards that its index.json lists.

    Where only a variant is there (`stem`.fp16.safetensors), it is read.
    """
    folder = Path(folder)
    index = _first(folder, f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json")
    single = _first(folder, f"{stem}.safetensors", f"{stem}.fp16.safetensors")
    if not single.is_file() and not index.is_file():
        for pickle in sorted(filter(is_pickle, folder.iterdir() if folder.is_dir() else ())):
            raise InputError(conversion(pickle, folder / f"{stem}.safetensors"))
    if single.is_file() or not index.is_file():
        return open_safetensors(single)
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise InputError(f"{index} has no weight_map: it is not the index of a sharded model")
    files = sorted(set(places.values()))
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise InputError(f"{folder} lacks {', '.join(absent)}: {index.name} lists it, fetch it")
    shards = {file: open_safetensors(folder / file) for file in files}
    lost = [f"{name} of {file}" for name, file in places.items() if name not in shards[file]]
    if lost:
        raise InputError(f"{folder} lacks {', '.join(lost)}: {index.name} lists it, fetch it")
    tensors = joined(*shards.values())
    return Tensors(str(folder), tensors.infos, tensors.piece, tensors.metadata)


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


def is_pickle(path: Path) -> bool:
    """Whether a file's name is that of PyTorch's own format, which can run code when it is read."""
    return path.suffix in _PICKLES and path.is_file()


def conversion(pickle: Path, target: Path) -> str:
    """What is wrong with a pickle, and the command that makes a safetensors file of it."""
    command = shlex.join(["python", "-c", _CONVERT, str(pickle), str(target)])
    return f"{pickle} is a pickle, which is never read here; convert it once: {command}"


def _first(folder: Path, *names: str) -> Path:
    """The first of these files that exists, or else the first."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file, and where its data starts."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
            raise _broken(path, f"its header would have {length} bytes")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise _broken(path, f"its header is not JSON ({error})") from error
    data = 8 + length
    told = data + max((entry["data_offsets"][1] for entry in _entries(path, header)), default=0)
    if path.stat().st_size != told:
        raise _broken(path, f"it has {path.stat().st_size} bytes, its header tells of {told}")
    return header, data


def _entries(path: Path, header: Any) -> list[Mapping[str, Any]]:
    """What the header says of each tensor, checked for its form."""
    if not isinstance(header, dict):
        raise _broken(path, "its header is no object")
    entries = {name: entry for name, entry in header.items() if name != _METADATA}
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise _broken(path, f"its header says too little of tensor {name}")
    return list(entries.values())


def _info(path: Path, name: str, entry: Mapping[str, Any]) -> Info:
    if entry["dtype"] not in DTYPES:
        known = ", ".join(DTYPES)
        raise InputError(f"{path}: tensor {name} is {entry['dtype']}; give weights in {known}")
    info = Info(tuple(entry["shape"]), DTYPES[entry["dtype"]])
    start, stop = entry["data_offsets"]
    if stop - start != info.nbytes or start < 0:
        raise _broken(path, f"tensor {name} {info.shape} has {stop - start} bytes")
    return info


def _broken(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is no whole safetensors file, fetch it anew: {reason}")
