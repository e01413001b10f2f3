"""Configs: one Python file describes a run; overrides and sections are checked against types.

A config file has `get_config() -> ml_collections.ConfigDict`. `--config.a.b=v` may only change keys
that exist, to values of their type. `section` turns a part of it into a frozen dataclass: below the
stages nobody sees a ConfigDict.
"""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from flashjax.types import InputError

T = TypeVar("T")


def load(path: Path | str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file with overrides "a.b=v" applied, locked. InputError for a wrong one.

    What follows a colon is handed to its `get_config`: "recipe.py:512px,prompts".
    """
    path, variants = _variants(str(path))
    if not path.is_file():
        raise InputError(f"{path} does not exist: --config takes a Python file with get_config()")
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)  # so that it may load a config beside it
    SourceFileLoader(path.stem, str(path)).exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} has no get_config()")
    config = module.get_config(variants) if variants else module.get_config()
    for override in overrides:
        _apply(config, override)
    return config.lock()


def _variants(text: str) -> tuple[Path, str]:
    """The file and what follows its colon; a file may have a colon in its name."""
    file, colon, variants = text.rpartition(":")
    return (Path(file), variants) if colon and file.endswith(".py") else (Path(text), "")


def section(config: ConfigDict, name: str, dataclass_type: type[T]) -> T:
    """The section `name` ("a" or "a.b") as a frozen dataclass.

    InputError for unknown, missing or ill-typed fields, each with its full path.
    """
    value: Any = config
    parent = ""
    for key in name.split("."):
        _check_key(value, parent, key)
        parent = _join(parent, key)
        value = value[key]
    return _build(value, name, dataclass_type)


def to_json(config: ConfigDict | Mapping[str, Any]) -> str:
    """Sorted, indented JSON; references are resolved."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True)


def to_dict(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Plain dicts, resolved, with the types that JSON has: tuples become lists."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.loads(json.dumps(plain, default=ConfigDict.to_dict))


def digest(config: ConfigDict | Mapping[str, Any]) -> str:
    """The first 12 hex characters of the SHA-256 of the config's JSON."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:12]


def _apply(config: ConfigDict, override: str) -> None:
    """Set one key from "a.b=v"."""
    path, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"override {override!r} has no value: write --config.{path}=VALUE")
    *parents, last = path.split(".")
    node, parent = config, ""
    for key in parents:
        _check_key(node, parent, key)
        parent = _join(parent, key)
        node = node[key]
    _check_key(node, parent, last)
    if isinstance(node[last], ConfigDict):
        raise InputError(f"{path} is a section: set one of its keys {', '.join(node[last])}")
    node[last] = _parse(text, path, node[last], node.get_type(last))


def _check_key(node: Any, parent: str, key: str) -> None:
    """InputError unless `node` is a section with `key`; it names the nearest key."""
    if not isinstance(node, ConfigDict):
        raise InputError(f"{parent} is a value, not a section: it has no key {key!r}")
    if key not in node:
        raise _unknown(_join(parent, key), [_join(parent, known) for known in node])


def _unknown(path: str, known: Sequence[str]) -> InputError:
    nearest = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return InputError(f"config has no key {path}{hint}")


def _join(parent: str, key: str) -> str:
    return f"{parent}.{key}" if parent else key


def _parse(text: str, path: str, old: Any, kind: type) -> Any:
    """The text as a value of `kind`; a key that is None takes None, else what JSON makes of it."""
    if old is None and text == "None":
        return None
    if kind is type(None):
        return _guess(text)
    if kind in (tuple, list):
        parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        element = type(old[0]) if old else str
        return kind(_parse(part, path, part, element) for part in parts)
    booleans = {"true": True, "1": True, "false": False, "0": False}
    try:
        return booleans[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} takes {kind.__name__}, not {text!r}") from error


def _guess(text: str) -> Any:
    """A number or boolean where JSON reads one, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _build(value: Any, path: str, kind: Any) -> Any:
    """A dataclass from a section, recursively."""
    if not isinstance(value, ConfigDict):
        raise InputError(f"{path} is a value, but {kind.__name__} needs a section")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in value:
        if key not in fields:
            raise _unknown(_join(path, key), [_join(path, known) for known in fields])
    for name, field in fields.items():
        required = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if required and name not in value:
            raise InputError(f"config lacks {_join(path, name)} ({_name(hints[name])})")
    converted = {key: _convert(value[key], _join(path, key), hints[key]) for key in value}
    try:
        return kind(**converted)
    except InputError as error:  # a value of the right type, but out of its range
        raise InputError(f"{path}: {error}") from error


def _convert(value: Any, path: str, hint: Any) -> Any:
    """The value as the annotated type: ints may stand for floats and lists for tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or (hint is type(None) and value is None):
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build(value, path, hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(value, path, hint, args)
    if origin is typing.Literal and value in args:
        return value
    if origin in (tuple, list) and isinstance(value, tuple | list):
        return _convert_elements(value, path, hint)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise InputError(f"{path} takes {_name(hint)}, not {value!r}")


def _first_that_fits(value: Any, path: str, hint: Any, options: Sequence[Any]) -> Any:
    for option in options:
        try:
            return _convert(value, path, option)
        except InputError:
            continue
    raise InputError(f"{path} takes {_name(hint)}, not {value!r}")


def _convert_elements(value: Sequence[Any], path: str, hint: Any) -> Any:
    """tuple[X, ...], tuple[X, Y] or list[X]."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    fixed = origin is tuple and Ellipsis not in args
    if fixed and len(args) != len(value):
        raise InputError(f"{path} takes {_name(hint)}, not {value!r}")
    hints = args if fixed else args[:1] * len(value)
    pairs = zip(value, hints, strict=True)
    return origin(_convert(x, f"{path}[{i}]", h) for i, (x, h) in enumerate(pairs))


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
