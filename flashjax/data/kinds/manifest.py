"""A manifest: a table of pictures and captions, in JSON lines, CSV or parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from flashjax.data.kinds.listed import Entry, Listed, captioned
from flashjax.types import InputError

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # in a folder of pictures
SUFFIXES = (".jsonl", ".csv", ".parquet")
PICTURES = ("file_name", "image", "path", "filename", "image_path", "file")
CAPTIONS = ("text", "caption", "prompt", "captions")

Row = dict[str, Any]


def open_manifest(path: Path, empty: str) -> Listed:
    """The rows of a manifest; paths are relative to it. InputError for a missing column."""
    rows = list(_READERS[path.suffix](path))
    if not rows:
        raise InputError(f"{path} holds no row: write one for each picture")
    columns = list(dict.fromkeys(key for row in rows[:100] for key in row))
    picture, caption = _column(path, columns, PICTURES), _column(path, columns, CAPTIONS)
    entries = [_entry(path, number, row, picture, caption) for number, row in enumerate(rows)]
    return captioned(str(path), entries, empty)


def _column(path: Path, columns: list[str], known: tuple[str, ...]) -> str:
    found = next((name for name in known if name in columns), None)
    if found is None:
        raise InputError(
            f"{path} has no column {' or '.join(known)}: its columns are {', '.join(columns[:8])}"
        )
    return found


def _entry(path: Path, number: int, row: Row, picture: str, caption: str) -> Entry:
    value, text = row.get(picture), row.get(caption)
    if isinstance(text, list):
        text = text[0] if text else ""
    text = "" if text is None else " ".join(str(text).split())
    if isinstance(value, dict) and value.get("bytes"):  # as datasets store pictures in parquet
        content = value["bytes"]
        where = str(value.get("path") or f"{path.name} row {number}")
        return Entry(where, text, lambda: io.BytesIO(content), str(len(content)))
    if isinstance(value, dict):
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: row {number + 1} names no picture in {picture}")
    file = path.parent / value
    return Entry(value, text, _opener(file), str(file.stat().st_size if file.is_file() else -1))


def _opener(file: Path) -> Callable[[], BinaryIO]:
    return lambda: file.open("rb")


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is no JSON: write an object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is no object: write an object a line")
        yield row


def _csv(path: Path) -> Iterator[Row]:
    try:
        yield from csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    except csv.Error as error:
        raise InputError(
            f"{path} is no CSV ({error}): write a header and a row a picture"
        ) from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        for batch in file.iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is no parquet file: {reason[:200]}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8: save it as UTF-8") from error


_READERS = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
