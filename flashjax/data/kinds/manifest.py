"""A manifest: a list of pictures and captions, in JSON lines or CSV; paths are relative to it."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

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
from flashjax.types import InputError

Row = dict[str, Any]


def open_manifest(address: Address, wording: Wording) -> Listed:
    """The rows of a manifest. InputError for a missing column.

    A picture that is not there is unreadable when it is asked for.
    """
    rows = list(_READERS[address.suffix](address))
    if not rows:
        raise InputError(f"{address} holds no row: write one for each picture")
    columns = list(dict.fromkeys(str(key) for row in rows[:100] for key in row))
    picture = column_of(f"{address}", columns, PICTURES)
    caption = "" if wording.unread else column_of(f"{address}", columns, CAPTIONS)
    folder, entries = address.parent, []
    for number, row in enumerate(rows, start=1):
        where = f"{address}: row {number}"
        name = named_in(row.get(picture), where, picture)
        entries.append(listed_entry(folder, name, texts_of(row.get(caption), where)))
    return captioned(str(address), entries, wording)


def column_of(where: str, columns: Sequence[str], known: Sequence[str]) -> str:
    """The first column of a usual name. InputError for none, with those that are there."""
    found = next((name for name in known if name in columns), None)
    if found is None:
        raise InputError(
            f"{where} has no column {' or '.join(known)}: its columns are {', '.join(columns[:8])}"
        )
    return found


def refuse_twice(where: str, columns: Sequence[str]) -> None:
    """InputError for two columns of a usual name: nobody can say which of them is meant."""
    for name in (*PICTURES, *CAPTIONS):
        if columns.count(name) > 1:
            raise InputError(f"{where} has two columns {name}: keep one of them")


def named_in(cell: Any, where: str, column: str) -> str:
    """The name of a file in a cell. InputError for what can be none."""
    try:
        if isinstance(cell, str) and cell and b"\0" not in os.fsencode(cell):
            return cell
    except UnicodeEncodeError as error:  # a character that was cut in half
        raise InputError(f"{where}: {cell!a:.80} in {column} is no file's name") from error
    raise InputError(f"{where} names no picture in {column}")


def listed_entry(folder: Address, name: str, captions: tuple[str, ...]) -> Entry:
    """A picture that a table in `folder` names; its bytes are counted where it lies near."""
    file = folder.within(name)
    return Entry(name, captions, file.open, str(file.bytes()) if file.local else "")


def _json_lines(address: Address) -> Iterator[Row]:
    for number, line in enumerate(address.read_text().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # as of a number of 5,000 digits
            raise InputError(
                f"{address}: line {number} is no JSON: write an object a line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{address}: line {number} is no object: write an object a line")
        yield row


def _csv(address: Address) -> Iterator[Row]:
    try:
        rows = csv.DictReader(io.StringIO(address.read_text(), newline=""), strict=True)
        refuse_twice(f"{address}", rows.fieldnames or ())
        for row in rows:
            if None in row:
                raise InputError(
                    f"{address}: the row of {next(iter(row.values()))!r:.60} has more cells than "
                    f"the header: put texts with commas in quotes"
                )
            yield row
    except csv.Error as error:
        raise InputError(
            f"{address} is no CSV ({error}): write a header and a row a picture"
        ) from error


_READERS = {".jsonl": _json_lines, ".csv": _csv}
SUFFIXES = tuple(_READERS)
