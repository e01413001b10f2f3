"""The GGUF container, v3 written and v2 read too: header, keys, tensor table, aligned bytes.

Little endian. A shape is stored reversed and with every dimension kept: readers of SD3 files need
the leading 1 of `pos_embed`. Source: ggml's docs/gguf.md.
"""

import math
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flashjax.convert.tensors import Info, Tensors, computed
from flashjax.quantize.codecs.codec import CODECS, READ_ONLY, UNREAD, Codec
from flashjax.quantize.codecs.tensors import decode_tensor
from flashjax.types import InputError

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
READ_VERSIONS = (2, 3)  # they differ in byte order only, where that is big
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # before a tensor's name: the shape that it had
PARTS = "split.count"
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9  # value types that have a name here
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
MAX_DIMS = 4
READ = CODECS + READ_ONLY


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor ready for the file: numpy shape, codec and its uint8 bytes."""

    name: str
    shape: tuple[int, ...]
    codec: Codec
    codes: np.ndarray


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file: numpy shape, codec, and where its bytes start in the file."""

    shape: tuple[int, ...]
    codec: Codec
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes in the file."""
        return self.codec.encoded_bytes(math.prod(self.shape))


@dataclass(frozen=True)
class GgufFile:
    """An opened file: its key-value pairs and tensor table; `array` reads one tensor."""

    path: Path
    keys: dict[str, Any]
    tensors: dict[str, TensorEntry]

    def array(self, name: str) -> np.ndarray:
        """The dequantised float32 tensor `name`."""
        entry = self.tensors[name]
        codes = np.fromfile(self.path, np.uint8, count=entry.nbytes, offset=entry.start)
        return decode_tensor(codes, entry.codec, shape=entry.shape)


def write_gguf(
    path: Path, tensors: Iterable[EncodedTensor], *, keys: Mapping[str, str | int | float]
) -> None:
    """Write `tensors`, taken one by one, and `keys` (int as uint32, float as float32) to GGUF.

    The table precedes the bytes but is known only after them, so bytes wait in an unnamed file
    beside `path`. `path` appears complete or not at all.
    """
    partial = path.with_name(path.name + ".partial")
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        table = [_table_row(tensor, _append_aligned(spool, tensor.codes)) for tensor in tensors]
        spool.seek(0)
        try:
            with open(partial, "wb") as out:
                pairs = [_text(key) + _value(value) for key, value in keys.items()]
                out.write(MAGIC + struct.pack("<IQQ", VERSION, len(table), len(pairs)))
                _append_aligned(out, b"".join(pairs + table))
                shutil.copyfileobj(spool, out, 1 << 20)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def is_gguf(path: Path) -> bool:
    """Whether a name is that of a GGUF file, by its end."""
    return path.suffix.lower() == ".gguf"


def read_gguf(path: Path) -> GgufFile:
    """Read header, keys and tensor table of a GGUF file, and check that all tensor bytes are there.

    Raises InputError naming the file when it is missing, truncated, one part of several, of another
    version, has a name twice or tensors that overlap, or a tensor of a type that is not read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a .gguf file")
    with open(path, "rb") as file:
        header = _Header(file, path)
        if header.take(4) != MAGIC:
            raise InputError(f"{path}: does not start with 'GGUF'; give a GGUF file")
        version, tensor_count, key_count = header.unpack("<IQQ")
        if version not in READ_VERSIONS:
            big = ", of the other byte order" if version % 65536 == 0 else ""
            raise InputError(
                f"{path}: GGUF version {version}{big}, need {VERSION}; convert it again"
            )
        keys = header.distinct("key", (header.pair() for _ in range(key_count)))
        rows = (header.table_row() for _ in range(tensor_count))
        table = header.distinct("tensor", ((name, row) for name, *row in rows))
        alignment = keys.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise header.damaged(f"general.alignment {alignment!r}")
        data = _aligned(file.tell(), alignment)
    if keys.get(PARTS, 1) != 1:
        raise InputError(f"{path} is one of {keys[PARTS]} parts: join them with llama-gguf-split")
    tensors = {
        name: TensorEntry(shape, codec, data + offset)
        for name, (shape, codec, offset) in table.items()
    }
    header.check_places(tensors, data, alignment)
    return GgufFile(path, keys, tensors)


def open_gguf(path: Path) -> Tensors:
    """The tensors of a file, each dequantised to float32 when it is read.

    Each has the shape that it had before ComfyUI-GGUF's converter gave it another.
    """
    file = read_gguf(path)
    float32 = np.dtype(np.float32)
    infos = {}
    for name, entry in file.tensors.items():
        shape = file.keys.get(ORIGINAL_SHAPE + name, entry.shape)
        whole = isinstance(shape, list | tuple) and all(type(size) is int for size in shape)
        if not whole or math.prod(shape) != math.prod(entry.shape):
            raise InputError(f"{path}: tensor {name} {entry.shape} cannot have been {shape!r}")
        infos[name] = Info(tuple(shape), float32)
    return computed(str(path), infos, file.array)


class _Header:
    """Reads the typed fields of a GGUF header and never past the end of the file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.size = path.stat().st_size

    def damaged(self, where: str) -> InputError:
        return InputError(
            f"{self.path}: truncated or damaged in {where} (it has {self.size} bytes); "
            "copy or write the file again"
        )

    def take(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise self.damaged("the header")
        return self.file.read(count)

    def unpack(self, layout: str) -> tuple:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def distinct(self, what: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """A dict of pairs whose names differ."""
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise InputError(f"{self.path}: the {what} {name} is there twice; write it anew")
            found[name] = value
        return found

    def check_places(self, tensors: Mapping[str, TensorEntry], data: int, alignment: int) -> None:
        """Raises InputError for a tensor that is not whole, lies astray, or on another one."""
        end, before = data, "the header"
        for name, entry in sorted(tensors.items(), key=lambda item: item[1].start):
            if entry.start + entry.nbytes > self.size:
                raise self.damaged(f"tensor {name}")
            if entry.start < end or (entry.start - data) % alignment:
                where = f"byte {entry.start}, where {before} ends at {end}"
                raise InputError(f"{self.path}: tensor {name} begins at {where}; write it anew")
            end, before = entry.start + entry.nbytes, name

    def text(self) -> str:
        (length,) = self.unpack("<Q")
        return self.take(length).decode("utf-8", errors="replace")

    def name(self) -> str:
        (length,) = self.unpack("<Q")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged("a name (no UTF-8)") from error

    def pair(self) -> tuple[str, Any]:
        key, (kind,) = self.name(), self.unpack("<I")
        return key, self.value(kind)

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            item_kind, count = self.unpack("<IQ")
            if item_kind == ARRAY:  # as deep as a file is long
                raise self.damaged("a key (an array of arrays)")
            return [self.value(item_kind) for _ in range(count)]
        if kind not in SCALARS:
            raise self.damaged(f"a key (value type {kind})")
        return self.unpack("<" + SCALARS[kind])[0]

    def table_row(self) -> tuple[str, tuple[int, ...], Codec, int]:
        """-> name, numpy shape, codec, offset inside the data section."""
        name, (n_dims,) = self.name(), self.unpack("<I")
        if n_dims > MAX_DIMS:
            raise self.damaged(f"tensor {name} of {n_dims} dims")
        shape = self.unpack(f"<{n_dims}Q")[::-1]
        ggml_type, offset = self.unpack("<IQ")
        codec = next((codec for codec in READ if codec.ggml_type == ggml_type), None)
        if codec is None:
            kind, known = UNREAD.get(ggml_type, ggml_type), ", ".join(codec.name for codec in READ)
            raise InputError(
                f"{self.path}: tensor {name} has ggml type {kind}, need one of {known}; "
                "quantize the model again"
            )
        if shape and shape[-1] % codec.block:
            raise self.damaged(f"tensor {name} ({shape} in {codec.name})")
        return name, shape, codec, offset


def _table_row(tensor: EncodedTensor, offset: int) -> bytes:
    dims = tensor.shape[::-1]
    if len(dims) > MAX_DIMS:
        raise InputError(f"tensor {tensor.name} {tensor.shape}: GGUF holds at most {MAX_DIMS} dims")
    head = _text(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return head + struct.pack("<IQ", tensor.codec.ggml_type, offset)


def _append_aligned(out: BinaryIO, data: bytes | np.ndarray) -> int:
    """Write `data` and zeros up to the alignment -> the offset where it starts."""
    offset = out.tell()
    out.write(data)
    out.write(bytes(_aligned(out.tell(), ALIGNMENT) - out.tell()))
    return offset


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: str | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    return struct.pack("<II", UINT32, value)
