"""Safetensors files, written: one tensor in memory at a time, read back, and whole or not at all.

Source: https://github.com/huggingface/safetensors, section "Format"; index files as diffusers and
transformers write them.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.convert.reading import DTYPES, open_safetensors
from flashjax.convert.tensors import Info, Tensors, energy
from flashjax.types import InputError, listed

MAX_SHARD_BYTES = 10_000_000_000  # diffusers' own limit
PIECE_ELEMENTS = 2**24  # that are checked, hashed and written at once
SMALLEST_HALF = 1e-5  # root-mean-square weight that float16 keeps at 55 dB, a tenth of it at 35
WIDER = "write it with --dtype bfloat16 or float32 (export.dtype of a config)"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = {dtype: order for order, dtype in enumerate(DTYPES.values())}

log = logging.getLogger(__name__)


def write_safetensors(
    path: Path | str,
    tensors: Tensors,
    *,
    dtype: Any = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` in `dtype`, or each in its own; the file appears once it is proved complete.

    The order is the format's own library's, so that equal tensors give equal files. `metadata` is
    {"format": "pt"} unless given. Every tensor is read back and compared. A tensor that float16
    would leave nothing of keeps its own dtype, and is said. InputError for weights that are not
    finite in `dtype`.
    """
    _write(Path(path), tensors, _stored(path, tensors, dtype), metadata)


def write_weights(
    folder: Path,
    stem: str,
    tensors: Tensors,
    *,
    dtype: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `stem`.safetensors, or shards with their index where it would exceed a size."""
    infos = _stored(folder / stem, tensors, dtype)
    shards = _shards(infos, max_shard_bytes)
    if len(shards) == 1:
        _write(folder / f"{stem}.safetensors", tensors, infos)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / file, tensors, {name: infos[name] for name in names})
        places |= dict.fromkeys(names, file)
    total = sum(info.nbytes for info in infos.values())
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))},
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """An object to a JSON file, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def stored_as(dtype: Any, array: np.ndarray, what: str, *, advice: str = WIDER) -> np.ndarray:
    """The array in `dtype`. InputError where a number of it is none there; `what` names it."""
    dtype = np.dtype(dtype)
    with np.errstate(over="ignore"):  # an overflow is what the next lines report
        stored = np.asarray(array).astype(dtype, copy=False)
    if np.isfinite(stored).all():
        return stored
    if not np.isfinite(array).all():
        raise InputError(f"{what} holds NaN or infinity: mend the checkpoint")
    largest = float(np.abs(array).max())
    raise InputError(f"{what} is not finite in {dtype.name}, it holds {largest:.4g}: {advice}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path for a new file or folder; it takes the place of `path` when the block ends well.

    InputError where a folder would take the place of a file, or a file that of a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", dir=path.parent) as scratch:
        new = Path(scratch) / path.name
        yield new
        if path.exists() and path.is_dir() != new.is_dir():
            kind = "folder" if path.is_dir() else "file"
            raise InputError(f"{path} is a {kind}: move it away, or choose another name")
        if path.is_dir():  # a folder that is not empty cannot be replaced in one step
            os.replace(path, Path(scratch) / "old")
        os.replace(new, path)


def _write(
    path: Path,
    tensors: Tensors,
    infos: Mapping[str, Info],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Those of the tensors that `infos` lists, in its order and dtypes, read back and compared."""
    digests = {}
    with replacing(path) as new:
        with new.open("wb") as file:
            file.write(_header(infos, {"format": "pt"} if metadata is None else metadata))
            for name, info in infos.items():
                digest = hashlib.sha256()
                for piece in _pieces(tensors, name):
                    stored = stored_as(info.dtype, piece, f"{path}: tensor {name}")
                    digest.update(stored.view(np.uint8))
                    file.write(stored.view(np.uint8))
                digests[name] = digest.digest()
        _prove(new, digests)


def _stored(path: Path | str, tensors: Tensors, dtype: Any) -> dict[str, Info]:
    """The tensors as the file will have them, in its order: wide types first, then by name."""
    if dtype is not None and np.dtype(dtype) not in _NAMES:
        known = ", ".join(known.name for known in _NAMES)
        raise InputError(f"{path} cannot be written in {np.dtype(dtype).name}: choose of {known}")
    infos = {
        name: info if dtype is None else Info(info.shape, np.dtype(dtype))
        for name, info in tensors.infos.items()
    }
    tiny = [name for name, info in infos.items() if _vanishes(tensors, name, info.dtype)]
    if tiny:
        log.info("%s: %s too small for float16, kept as stored", path, listed(tiny))
    infos |= {name: tensors.infos[name] for name in tiny}
    return dict(sorted(infos.items(), key=lambda item: (-_ORDER[item[1].dtype], item[0])))


def _vanishes(tensors: Tensors, name: str, dtype: np.dtype) -> bool:
    """Whether a tensor as a whole is below what float16 resolves, and is to be narrowed to it."""
    info = tensors.infos[name]
    if dtype != np.float16 or info.dtype == dtype or info.dtype.itemsize == 1 or not info.size:
        return False
    return 0 < sum(map(energy, _pieces(tensors, name))) < info.size * SMALLEST_HALF**2


def _header(infos: Mapping[str, Info], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, info in infos.items():
        start, end = end, end + info.nbytes
        header[name] = {
            "dtype": _NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _shards(infos: Mapping[str, Info], max_bytes: int) -> list[list[str]]:
    """The names in order, cut wherever the next tensor would not fit."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, info in infos.items():
        if shards[-1] and filled + info.nbytes > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += info.nbytes
    return shards


def _pieces(tensors: Tensors, name: str) -> Iterator[np.ndarray]:
    """The elements of a tensor in order: a large one costs no second copy of itself."""
    size = tensors.infos[name].size
    for start in range(0, size, PIECE_ELEMENTS):
        piece = tensors.piece(name, start, min(start + PIECE_ELEMENTS, size))
        yield np.ascontiguousarray(piece)


def _prove(path: Path, digests: Mapping[str, bytes]) -> None:
    """OSError if the disk does not give back what was written."""
    written = open_safetensors(path)
    for name, expected in digests.items():
        digest = hashlib.sha256()
        for piece in _pieces(written, name):
            digest.update(piece.view(np.uint8))
        if digest.digest() != expected:
            raise OSError(f"{path}: tensor {name} reads back other than it was written")
