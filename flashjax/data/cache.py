"""The cache of a run's data: shards of records, a manifest, and batches of rows out of them.

A record is the bytes of its fields one after the other; the manifest says their shapes and dtypes.
Letters: n samples, h w c latents, m text tokens, d text width, p pooled width.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from flashjax.types import Batch, Cond, InputError, Tokens

MANIFEST = "manifest.json"
LATENTS = "latents"
EMPTY = "empty.array_record"  # what is kept of the empty caption
DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "int32")
}
TOKENS, CONDS = tuple(Tokens.__dataclass_fields__), tuple(Cond.__dataclass_fields__)
KEPT_ROWS = 64  # batches whose records are remembered: every field asks for the same rows


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a record."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * DTYPES[self.dtype].itemsize


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Samples of one shape: their shards, in order, and how many they are.

    Captions alone have no field of latents; `shape` is then that of what is drawn for them.
    """

    name: str
    shape: tuple[int, int, int]
    fields: Mapping[str, Field]
    shards: Sequence[str]
    count: int

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
    writer = ArrayRecordWriter(str(draft), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    draft.replace(path)


def check_shard(path: Path) -> None:
    """InputError for a shard of which a record cannot be read: each has a hash of its own."""
    try:
        source = ArrayRecordDataSource([str(path)])
        for start in range(0, len(source), KEPT_ROWS):
            source.__getitems__(list(range(start, min(start + KEPT_ROWS, len(source)))))
    except (ValueError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is damaged: delete it and run prepare again ({reason})"
        ) from error


class Records:
    """The records of a bucket, read when they are asked for."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        paths = [str(folder / name) for name in bucket.shards]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise InputError(f"{missing[0]} is missing: delete {folder} and run prepare again")
        self._bucket, self._source = bucket, ArrayRecordDataSource(paths)
        if len(self._source) != bucket.count:
            raise InputError(
                f"{folder}: bucket {bucket.name} has {len(self._source)} records, its manifest "
                f"says {bucket.count}: delete {folder} and run prepare again"
            )
        self.rows = functools.lru_cache(maxsize=KEPT_ROWS)(self._rows)

    def _rows(self, chosen: tuple[int, ...]) -> dict[str, np.ndarray]:
        records = self._source.__getitems__(list(chosen))
        found, start = {}, 0
        for name, field in self._bucket.fields.items():
            stop = start + field.nbytes
            parts = [np.frombuffer(r[start:stop], DTYPES[field.dtype]) for r in records]
            found[name] = np.stack(parts).reshape(len(parts), *field.shape)
            start = stop
        return found


class Column:
    """One field of all records, an array "n ..." of which only rows are read."""

    def __init__(self, records: Records, name: str, shape: tuple[int, ...]) -> None:
        self._records, self._name, self.shape = records, name, shape

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
    counts: Mapping[str, int]

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


def open_bucket(folder: Path, bucket: Bucket) -> Batch:
    """All samples of a bucket; rows are read as they are used."""
    records = Records(folder, bucket)
    columns: dict[str, Any] = {
        name: Column(records, name, (bucket.count, *field.shape))
        for name, field in bucket.fields.items()
    }
    kind: Any = Tokens if TOKENS[0] in columns else Cond
    text = kind(**{name: columns[name] for name in (TOKENS if kind is Tokens else CONDS)})
    if LATENTS in columns:
        return Batch(latents=columns[LATENTS], tokens=text)
    return without_pictures(text, bucket.shape)


def open_buckets(folder: Path, cache: Cache) -> tuple[Batch, ...]:
    """All samples of a cache, by bucket."""
    return tuple(open_bucket(folder, bucket) for bucket in cache.buckets)


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
        found = json.loads(path.read_text())
        buckets = tuple(_bucket(entry) for entry in found.pop("buckets"))
        return Cache(**found, buckets=buckets)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is no manifest of a cache ({error}): delete {folder} and run prepare again"
        ) from error


def _bucket(entry: Mapping[str, Any]) -> Bucket:
    fields = {
        name: Field(tuple(field["shape"]), field["dtype"])
        for name, field in entry["fields"].items()
    }
    return Bucket(**{**entry, "fields": fields, "shape": tuple(entry["shape"])})
