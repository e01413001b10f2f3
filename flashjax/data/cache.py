"""The cache of a run's data: shards of records, a manifest, and batches of rows out of them.

A record is the bytes of its fields one after the other; the manifest says their shapes and dtypes.
Letters: n samples, h w c latents, m text tokens, d text width, p pooled width.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import ml_dtypes
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from flashjax import config as configs
from flashjax.data.jsons import read_json
from flashjax.types import Batch, Cond, Count, InputError, Tokens, Whole, listed

MANIFEST = "manifest.json"
LATENTS = "latents"
EMPTY = "empty.array_record"  # what is kept of the empty caption
DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "int32")
}
TOKENS, CONDS = tuple(Tokens.__dataclass_fields__), tuple(Cond.__dataclass_fields__)
Kept: TypeAlias = Literal["float32", "bfloat16", "int32"]
DIMS = {LATENTS: 3, "text": 2}  # of a field's shape where it is not one
UNKNOWN: Mapping[str, int] = types.MappingProxyType({})
CHECKED = 64  # records that a check of a shard reads at once


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a record."""

    shape: tuple[Whole, ...]
    dtype: Kept

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Samples of one shape: their shards, in order, and how many they are.

    Captions alone have no field of latents; `shape` is then that of what is drawn for them.
    """

    name: str
    shape: tuple[Count, Count, Count]
    fields: Mapping[str, Field]
    shards: Sequence[str]
    count: Count

    def __post_init__(self) -> None:
        text = tuple(name for name in self.fields if name != LATENTS)
        if sorted(text) not in (sorted(TOKENS), sorted(CONDS)):
            raise InputError(f"fields {', '.join(self.fields)} are neither tokens nor embeddings")
        for name, field in self.fields.items():
            whole, dims = name in TOKENS, DIMS.get(name, 1)
            if (field.dtype == "int32") != whole or len(field.shape) != dims:
                raise InputError(f"{name} is {field.dtype} {field.shape}: of {dims} dims it is not")
        if LATENTS in self.fields and self.fields[LATENTS].shape != self.shape:
            raise InputError(f"latents are {self.fields[LATENTS].shape}, its shape {self.shape}")
        if any(Path(shard).name != shard for shard in self.shards):
            raise InputError(f"shards {listed(self.shards)} are not all files beside it")

    @property
    def record_bytes(self) -> int:
        return sum(field.nbytes for field in self.fields.values())


def pack(arrays: Mapping[str, np.ndarray], fields: Mapping[str, Field]) -> list[bytes]:
    """One record for each row of the arrays "n ...", in the order of `fields`."""
    columns = [
        np.ascontiguousarray(np.asarray(arrays[name]).astype(DTYPES[field.dtype]))
        for name, field in fields.items()
    ]
    return [b"".join(column[row].tobytes() for column in columns) for row in range(len(columns[0]))]


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Records to a file, whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing_records(path):
        writer = ArrayRecordWriter(str(draft), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
    draft.replace(path)


@contextlib.contextmanager
def writing_records(path: Path) -> Iterator[None]:
    """What a disk refuses the library of records, as the OSError that everything else raises."""
    try:
        yield
    except RuntimeError as error:
        codes = [code for code in errno.errorcode if f": {os.strerror(code)};" in str(error)]
        if not codes:
            raise
        raise OSError(codes[0], os.strerror(codes[0]), str(path)) from error


def check_shard(path: Path) -> None:
    """InputError for a shard of which a record cannot be read: each has a hash of its own."""
    try:
        source = ArrayRecordDataSource([str(path)])
        for start in range(0, len(source), CHECKED):
            source.__getitems__(list(range(start, min(start + CHECKED, len(source)))))
    except (ValueError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is damaged: delete it and run prepare again ({reason})"
        ) from error


class Records:
    """The records of a bucket, read when they are asked for."""

    def __init__(self, folder: Path, bucket: Bucket, known: Mapping[str, int]) -> None:
        paths = [str(folder / name) for name in bucket.shards]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise InputError(f"{missing[0]} is missing: delete {folder} and run prepare again")
        self._where, self._bucket, self._known = folder, bucket, known
        with self._reading():
            self._source = ArrayRecordDataSource(paths)
        if len(self._source) != bucket.count:
            raise InputError(
                f"{folder}: bucket {bucket.name} has {len(self._source)} records, its manifest "
                f"says {bucket.count}: delete {folder} and run prepare again"
            )

    @functools.cached_property
    def rows(self) -> Callable[[tuple[int, ...]], dict[str, np.ndarray]]:
        """All fields of the chosen records: each field of a batch asks for the same ones.

        A batch is remembered, in as many parts as there may be devices that ask; more would be
        gigabytes of embedded captions.
        """
        return functools.lru_cache(maxsize=jax.local_device_count())(self._rows)

    def _rows(self, chosen: tuple[int, ...]) -> dict[str, np.ndarray]:
        with self._reading():
            records = self._source.__getitems__(list(chosen))
        if any(len(record) != self._bucket.record_bytes for record in records):
            raise self._broken("a record is not as long as its manifest says")
        found, start = {}, 0
        for name, field in self._bucket.fields.items():
            stop = start + field.nbytes
            parts = [np.frombuffer(r[start:stop], DTYPES[field.dtype]) for r in records]
            found[name] = np.stack(parts).reshape(len(parts), *field.shape)
            start = stop
            if name in self._known and _beyond(found[name], self._known[name]):
                raise self._broken(f"{name} has tokens beyond its {self._known[name]}")
        return found

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError, IndexError) as error:  # of records that are no such
            raise self._broken((str(error).splitlines() or ["it cannot be read"])[0]) from error

    def _broken(self, reason: str) -> InputError:
        return InputError(
            f"{self._where}: bucket {self._bucket.name} is broken ({reason}): delete "
            f"{self._where} and run prepare again"
        )


def _beyond(ids: np.ndarray, rows: int) -> bool:
    """Whether ids are none of a table of so many rows: JAX would take its last for them."""
    return ids.size > 0 and not (0 <= ids.min() and ids.max() < rows)


class Column:
    """One field of all records, an array "n ..." of which only rows are read."""

    def __init__(self, records: Records, name: str, number: int, field: Field) -> None:
        self._records, self._name = records, name
        self.shape, self.dtype = (number, *field.shape), DTYPES[field.dtype]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        return self._records.rows(tuple(chosen.tolist()))[self._name]


@dataclasses.dataclass(frozen=True)
class Cache:
    """What `prepare` left: who made it, of what, and the buckets that hold samples.

    `made` holds digests of the encoders and what else must be that of the model trained on it.
    """

    samples: Mapping[str, str]
    made: Mapping[str, Any]
    buckets: tuple[Bucket, ...]
    counts: Mapping[str, Whole]

    def write(self, folder: Path) -> None:
        """The manifest, whole or not at all."""
        path = folder / MANIFEST
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        draft.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        draft.replace(path)

    def check(self, made: Mapping[str, Any], folder: Path) -> None:
        """InputError if the encoders, or what they make, are not those of `made`."""
        differ = [key for key in made if self.made.get(key) != made[key]]
        if differ:
            key = differ[0]
            raise InputError(
                f"{folder} was made for another model ({key}: {self.made.get(key)} -> "
                f"{made[key]}): run prepare again, in another workdir"
            )

    def check_dims(self, dims: Mapping[str, int], folder: Path) -> None:
        """InputError for a field whose last dim is not that of `dims`."""
        for bucket in self.buckets:
            for name, field in bucket.fields.items():
                if field.shape[-1] != dims.get(name, field.shape[-1]):
                    raise InputError(
                        f"{folder} is no cache for this model: {name} {field.shape} of bucket "
                        f"{bucket.name}, where it has {dims[name]}; run prepare again, in another "
                        "workdir"
                    )


def open_bucket(folder: Path, bucket: Bucket, known: Mapping[str, int] = UNKNOWN) -> Batch:
    """All samples of a bucket; rows are read as they are used.

    `known` is how many tokens each encoder has. InputError, once they are read, for others, and for
    records that are broken.
    """
    records = Records(folder, bucket, known)
    columns: dict[str, Any] = {
        name: Column(records, name, bucket.count, field) for name, field in bucket.fields.items()
    }
    kind: Any = Tokens if TOKENS[0] in columns else Cond
    text = kind(**{name: columns[name] for name in (TOKENS if kind is Tokens else CONDS)})
    if LATENTS in columns:
        return Batch(latents=columns[LATENTS], tokens=text)
    return without_pictures(text, bucket.shape)


def open_buckets(
    folder: Path, cache: Cache, known: Mapping[str, int] = UNKNOWN
) -> tuple[Batch, ...]:
    """All samples of a cache, by bucket."""
    return tuple(open_bucket(folder, bucket, known) for bucket in cache.buckets)


def open_empty(folder: Path, cache: Cache) -> Any:
    """The one row of what is kept of the empty caption: `Tokens` or `Cond` of columns "1 ..."."""
    first = cache.buckets[0]
    fields = {name: field for name, field in first.fields.items() if name != LATENTS}
    return open_bucket(folder, Bucket("empty", first.shape, fields, (EMPTY,), 1)).tokens


def without_pictures(text: Any, shape: tuple[int, ...]) -> Batch:
    """Captions alone, for training that needs no pictures: latents "n *shape" that are all 0.

    They take no memory.
    """
    number = len(text.t5 if isinstance(text, Tokens) else text.pooled)
    blank = np.broadcast_to(np.float32(0), (number, *shape))
    return Batch(latents=blank, tokens=text, pictures=False)


def read_cache(folder: Path) -> Cache:
    """The manifest of a folder. InputError for none or a broken one."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{path} does not exist: run the prepare stage first")
    try:
        return configs.record(read_json(path), "it", Cache)
    except InputError as error:
        raise InputError(
            f"{path} is no manifest of a cache ({error}): delete {folder} and run prepare again"
        ) from error
