"""`explain`: the keys of a config, each with its type, range, default and meaning.

All of it stands where the keys are read: the dataclasses' annotations, docstrings and comments.
"""

import argparse
import dataclasses
import inspect
import io
import re
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

from flashjax.tools import sections
from flashjax.types import InputError, nearest

ROADS = {"DISTIL": sections.DISTIL, "TEACH": sections.TEACH, "SLIM": sections.SLIM}


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a config; `default` is None for one that has to be given."""

    path: str
    kind: str
    default: str | None
    meaning: str


def run(options: argparse.Namespace) -> None:
    """Prints the keys at and below one. InputError for a key that no config has."""
    wanted = options.key.removeprefix("config.")
    found = [key for key in keys() if f"{key.path}.".startswith(f"{wanted}." if wanted else "")]
    if not found:
        paths = {part for key in keys() for part in _prefixes(key.path)}
        likely = nearest(wanted, sorted(paths))
        hint = f"; did you mean {likely}?" if likely else ""
        raise InputError(f"no config has a key {wanted}{hint}")
    for key in found:
        print(in_words(key))


def keys() -> list[Key]:
    """Every key of every road's config, once."""
    found = [
        key for road in ROADS.values() for name, kind in road.items() for key in _of(name, kind)
    ]
    return list({key.path: key for key in reversed(found)}.values())[::-1]


def in_words(key: Key) -> str:
    """A line of a key, and one of its meaning."""
    default = "must be given" if key.default is None else f"{key.default} unless given"
    line = f"{key.path}  ({key.kind}; {default})"
    return f"{line}\n    {key.meaning}" if key.meaning else line


def _of(path: str, kind: Any, default: str | None = None, meaning: str = "") -> Iterator[Key]:
    """The keys at and below a path whose values are of `kind`."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        yield Key(path, _named(kind), default, meaning or sections.MEANINGS.get(path, ""))
        return
    hints = typing.get_type_hints(kind, include_extras=True)
    told = {
        name: text for base in reversed(kind.__mro__[:-1]) for name, text in _meanings(base).items()
    }
    for field in dataclasses.fields(kind):
        given = None if field.default is dataclasses.MISSING else repr(field.default)
        yield from _of(f"{path}.{field.name}", hints[field.name], given, told.get(field.name, ""))


def _meanings(kind: type) -> dict[str, str]:
    """What a dataclass says of its fields: under "Attributes:", or in a comment beside them."""
    documented = inspect.getdoc(kind) or ""
    entries = re.findall(r"^  (\w+): (.+(?:\n {4,}.+)*)", documented, re.MULTILINE)
    found = {name: " ".join(text.split()) for name, text in entries}
    lines = inspect.getsource(kind)
    for token in tokenize.generate_tokens(io.StringIO(lines).readline):
        if token.type == tokenize.COMMENT and (field := re.match(r"\s*(\w+):", token.line)):
            found[field[1]] = token.string.lstrip("# ")
    return found


def _named(kind: Any) -> str:
    """A type in words, with its range."""
    if typing.get_origin(kind) is Annotated:
        plain, *ranges = typing.get_args(kind)
        return ", ".join([_named(plain), *map(str, ranges)])
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is None:
        return kind.__name__ if isinstance(kind, type) else str(kind)
    inner = ["..." if part is Ellipsis else _named(part) for part in typing.get_args(kind)]
    if isinstance(kind, types.UnionType):
        return " | ".join(inner)
    return f"{typing.get_origin(kind).__name__} of ({'; '.join(inner)})"


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))
