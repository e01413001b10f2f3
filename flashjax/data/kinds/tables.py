"""Tables with pictures inside, or their names: parquet files, and what Hugging Face datasets save.

Sources: https://arrow.apache.org/docs/format/Columnar.html; `Dataset.save_to_disk` of datasets.
"""

import contextlib
import functools
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from pyarrow import types

from flashjax.data.files import Address
from flashjax.data.kinds.listed import (
    CAPTIONS,
    PICTURES,
    Entry,
    Listed,
    Wording,
    captioned,
    texts_of,
)
from flashjax.data.kinds.manifest import column_of, listed_entry, named_in, refuse_twice
from flashjax.types import InputError

SUFFIXES = (".parquet", ".arrow")
SPLITS, STATE = "dataset_dict.json", "state.json"  # of `save_to_disk`
_INDEXED = b"ARROW1"  # how arrow's format of files begins
KEPT = 2  # groups of rows in memory at a time

Names = Callable[[Any, str], Any]


class Group(NamedTuple):
    """Rows that are read together: of a parquet file a row group, of an arrow file all."""

    file: Address
    number: int
    rows: int


def open_tables(name: str, files: Sequence[Address], wording: Wording) -> Listed:
    """The rows of all files; bytes of pictures are read as they are asked for.

    InputError for a missing column, and for files that differ in their columns.
    """
    opened = [_open(file) for file in files]
    groups = [group for _, more in opened for group in more]
    if not any(group.rows for group in groups):
        raise InputError(f"{name} holds no row")
    schema = opened[0][0]
    refuse_twice(str(files[0]), schema.names)
    for file, (other, _) in zip(files, opened, strict=True):
        if other.names != schema.names:
            raise InputError(f"{file} has other columns than {files[0]}: give each as a source")
    picture = _picture_column(name, schema)
    caption, named = ("", _as_it_is) if wording.unread else _caption_column(name, schema)
    entries = (_named_entries if _is_text(schema.field(picture).type) else _inner_entries)(
        groups, picture, caption, named
    )
    return captioned(name, list(entries), wording)


def saved_splits(folder: Address) -> list[str]:
    """The parts that `DatasetDict.save_to_disk` wrote."""
    return list(_json(folder.within(SPLITS), "splits"))


def saved_files(folder: Address) -> list[Address]:
    """The files that `Dataset.save_to_disk` wrote, in their order."""
    entries = _json(folder.within(STATE), "_data_files")
    return [folder.within(str(entry.get("filename"))) for entry in entries]


class _Column:
    """The cells of a column, a group of rows at a time."""

    def __init__(self, groups: Sequence[Group], name: str) -> None:
        self._groups, self._name = groups, name
        self._ends = np.cumsum([group.rows for group in groups])
        self._group = functools.lru_cache(maxsize=KEPT)(self._read)

    def _read(self, group: int) -> pyarrow.ChunkedArray:
        return _read(self._groups[group], [self._name]).column(self._name)

    def open(self, row: int) -> BinaryIO:
        """The picture of a row, within it or beside its table."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[group]) - self._groups[group].rows
        cell = self._group(group)[row - first].as_py()
        content = cell["bytes"] if isinstance(cell, dict) else cell
        if content is not None:
            return io.BytesIO(content)
        if isinstance(cell, dict) and cell.get("path"):
            return self._groups[group].file.parent.within(cell["path"]).open()
        raise FileNotFoundError(f"row {row + 1} holds no picture")


def _inner_entries(
    groups: Sequence[Group], picture: str, caption: str, named: Names
) -> Iterator[Entry]:
    """One entry for each row of tables that hold the bytes of pictures."""
    column = _Column(groups, picture)
    marks = {group.file: f"{group.file.bytes()}" for group in groups}
    for row, (group, (text,)) in enumerate(_rows(groups, [caption])):
        where = f"{group.file.name} row {row + 1}"
        opener = functools.partial(column.open, row)
        yield Entry(where, texts_of(named(text, where), where), opener, marks[group.file])


def _named_entries(
    groups: Sequence[Group], picture: str, caption: str, named: Names
) -> Iterator[Entry]:
    """One entry for each row of tables that name the files of pictures."""
    folders = {group.file: group.file.parent for group in groups}
    for row, (group, (name, text)) in enumerate(_rows(groups, [picture, caption]), start=1):
        where = f"{group.file.name} row {row}"
        file = named_in(name, where, picture)
        yield listed_entry(folders[group.file], file, texts_of(named(text, where), where))


def _rows(groups: Sequence[Group], columns: Sequence[str]) -> Iterator[tuple[Group, tuple]]:
    """Cells of these columns, row by row; of the column "", which is none, all are None."""
    for group in groups:
        table = _read(group, [column for column in columns if column])
        cells = [
            table.column(column).to_pylist() if column else [None] * group.rows
            for column in columns
        ]
        yield from ((group, row) for row in zip(*cells, strict=True))


def _picture_column(name: str, schema: pyarrow.Schema) -> str:
    """The column of pictures: of a usual name, or the one that says so."""
    told = [key for key, feature in _features(schema).items() if feature.get("_type") == "Image"]
    usual = [column for column in PICTURES if column in schema.names]
    found = next(iter([*(column for column in told if column in usual), *usual, *told]), None)
    column = found or column_of(name, schema.names, PICTURES)
    kind = schema.field(column).type
    inside = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    bare = (types.is_binary, types.is_large_binary, types.is_binary_view)
    if not (inside or _is_text(kind) or any(is_kind(kind) for is_kind in bare)):
        raise InputError(f"{name}: column {column} is {kind}: give bytes of files, or their names")
    return column


def _caption_column(name: str, schema: pyarrow.Schema) -> tuple[str, Names]:
    """The column of captions and what makes texts of its cells: labels have names."""
    if not any(column in schema.names for column in CAPTIONS):
        for column, feature in _features(schema).items():
            if feature.get("_type") == "ClassLabel" and feature.get("names"):
                return column, functools.partial(_label, feature["names"])
    return column_of(name, schema.names, CAPTIONS), _as_it_is


def _as_it_is(cell: Any, where: str) -> Any:
    del where
    return cell


def _label(names: Sequence[str], label: int | None, where: str) -> str | None:
    if label is None or label < 0:
        return None
    if label >= len(names):
        raise InputError(
            f"{where}: its label is {label}, and there are {len(names)} names: mend it"
        )
    return names[label].replace("_", " ")


def _features(schema: pyarrow.Schema) -> dict[str, Any]:
    """What Hugging Face's datasets say of the columns."""
    told = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(told)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _open(file: Address) -> tuple[pyarrow.Schema, list[Group]]:
    """The columns of a file and its groups. InputError for one that is none."""
    with _broken_is_refused(file):
        if file.suffix == ".arrow":
            table = _stream(file)
            return table.schema, [Group(file, 0, table.num_rows)]
        with pyarrow.parquet.ParquetFile(file.local or file.open()) as source:
            counts = [source.metadata.row_group(n).num_rows for n in range(source.num_row_groups)]
            return source.schema_arrow, [Group(file, n, count) for n, count in enumerate(counts)]


def _read(group: Group, columns: Sequence[str]) -> pyarrow.Table:
    """Columns of a group; its file is opened anew: there may be thousands."""
    with _broken_is_refused(group.file):
        if group.file.suffix == ".arrow":
            return _stream(group.file).select(columns)
        with pyarrow.parquet.ParquetFile(group.file.local or group.file.open()) as source:
            return source.read_row_group(group.number, columns=list(columns))


def _stream(file: Address) -> pyarrow.Table:
    """All of an arrow file, which stays where it is if that is this machine.

    It is a stream, as datasets writes it, or the format of files, which is Feather's too.
    """
    source = pyarrow.memory_map(file.local) if file.local else file.open()
    indexed = source.read(len(_INDEXED)) == _INDEXED
    source.seek(0)
    opened = pyarrow.ipc.open_file(source) if indexed else pyarrow.ipc.open_stream(source)
    return opened.read_all()


@contextlib.contextmanager
def _broken_is_refused(file: Address) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist: fetch it again") from error
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        kind = file.suffix.removeprefix(".")
        raise InputError(f"{file} is no {kind} file, or a broken one: {reason:.200}") from error


def _json(file: Address, key: str) -> list[Any]:
    try:
        found = json.loads(file.read_text())[key]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{file} has no list {key}: save the dataset again") from error
    if not isinstance(found, list):
        raise InputError(f"{file} has no list {key}: save the dataset again")
    return found


def _is_text(kind: pyarrow.DataType) -> bool:
    """Whether cells are texts, however they are kept: categories are a dictionary of them."""
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
