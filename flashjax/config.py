"""Configs: one Python file describes a run; overrides and sections are checked against types.

A config file has `get_config() -> ml_collections.ConfigDict`. `--config.a.b=v` may only change keys
that exist or have a default, to values of their type. `section` turns a part of it into a frozen
dataclass: below the stages nobody sees a ConfigDict.
"""

import ast
import dataclasses
import hashlib
import itertools
import json
import reprlib
import sys
import traceback
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Annotated, Any, TypeVar

from ml_collections import ConfigDict

from flashjax.types import InputError, Range, nearest

T = TypeVar("T")

NO_DEFAULTS: Mapping[str, Any] = types.MappingProxyType({})
LARGEST = 1e300  # of a finite number
LISTED = 12  # keys that a message names
RECIPES = Path(__file__).with_name("configs")
SEEDS = 2**32  # of a run: what its random keys and its data tell apart


class OutOfRange(InputError):
    """Every value of a section has its type, but not all are in their ranges."""


def load(
    path: Path | str, overrides: Sequence[str] = (), defaults: Mapping[str, Any] = NO_DEFAULTS
) -> ConfigDict:
    """The config of a file with overrides "a.b=v" applied, locked. InputError for a wrong one.

    `defaults` are the keys that a recipe may leave out, by path: an override may name them, too.

    What follows a colon is handed to its `get_config`: "recipe.py:512px,prompts". The name of a
    packaged recipe, "nano", is that one where no such file is.
    """
    path, variants = _variants(str(path))
    if not path.is_file():
        raise _absent(path)
    config = _execute(path, variants)
    for override in overrides:
        _apply(config, override, defaults)
    try:
        _check_seeds(config)
    except RecursionError as error:
        raise InputError(f"{path}: a section of its config holds itself; mend it") from error
    return config.lock()


def recipes() -> dict[str, Path]:
    """The packaged recipes, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.py"))}


def _variants(text: str) -> tuple[Path, str]:
    """The file and what follows its colon; a file may have a colon in its name."""
    packaged = recipes()
    name, colon, variants = text.rpartition(":")
    if not colon or not (name.endswith(".py") or name in packaged):
        name, variants = text, ""
    path = Path(name)
    return (path if path.is_file() else packaged.get(name, path)), variants


def _absent(path: Path) -> InputError:
    """What to say of a recipe that is not there: the nearest packaged one."""
    likely = nearest(path.stem, recipes())
    hint = f"did you mean the packaged {likely}? " if likely else ""
    return InputError(
        f"--config {path} does not exist: {hint}give a Python file with get_config(), or a name "
        "that `flashjax configs` lists"
    )


def section(config: ConfigDict, name: str, kind: type[T]) -> T:
    """The section `name` ("a" or "a.b") as a frozen dataclass, or a value as its annotated type.

    InputError, with a line for each, for unknown, missing or ill-typed fields, and OutOfRange where
    values alone are wrong, each with its full path.
    """
    value: Any = config
    parent = ""
    for key in name.split("."):
        _check_key(value, parent, key)
        parent = _join(parent, key)
        value = value[key]
    return _convert(value, name, kind)


def record(value: Any, where: str, kind: type[T]) -> T:
    """An object of JSON that we wrote, as a frozen dataclass. InputError for another; `where` has
    the file's name.
    """
    try:
        return _convert(value, "", kind)
    except InputError as error:
        (first, *_) = error.args
        raise InputError(f"{where}: {first.removeprefix('config ').strip()}") from error


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


def _execute(path: Path, variants: str) -> ConfigDict:
    """What get_config() of a file returns. InputError for a mistake in it, with its line."""
    name = f"{path.stem} of {path.parent}"
    module = types.ModuleType(name)
    module.__file__ = str(path)  # so that it may load a config beside it
    sys.modules[name] = module  # where a dataclass looks for its own
    try:
        SourceFileLoader(name, str(path)).exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError(f"{path} has no get_config()")
        config = module.get_config(variants) if variants else module.get_config()
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the code is the user's, and so is what it raises
        where = f"{path}, line {_line_of(error, path)}"
        raise InputError(f"{where}: {type(error).__name__}: {error}; mend the config") from error
    finally:
        sys.modules.pop(name, None)
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config() returns a {type(config).__name__}, no ConfigDict")
    return config


def _line_of(error: BaseException, path: Path) -> int:
    """The last line of the file that had a part in an error."""
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path) and frame.lineno]
    return lines[-1] if lines else 1


def _check_seeds(config: ConfigDict, parent: str = "") -> None:
    """InputError for a seed that would be taken for another."""
    for key, value in config.items():
        path = _join(parent, key)
        if isinstance(value, ConfigDict):
            _check_seeds(value, path)
        elif key == "seed" and type(value) is int and not 0 <= value < SEEDS:
            raise InputError(f"{path}={value}: give a seed from 0 to {SEEDS - 1}")


def _apply(config: ConfigDict, override: str, defaults: Mapping[str, Any]) -> None:
    """Set one key from "a.b=v"; one of `defaults` that is absent is there from now on."""
    path, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"override {override!r} has no value: write --config.{path}=VALUE")
    *parents, last = path.split(".")
    node, parent = config, ""
    for key in parents:
        if path in defaults and isinstance(node, ConfigDict) and key not in node:
            node[key] = ConfigDict()
        _check_key(node, parent, key)
        parent = _join(parent, key)
        node = node[key]
    if path in defaults and isinstance(node, ConfigDict) and last not in node:
        node[last] = defaults[path]
    beside = [key for left, _, key in (p.rpartition(".") for p in defaults) if left == parent]
    _check_key(node, parent, last, beside)
    if isinstance(node[last], ConfigDict):
        raise InputError(f"{path} is a section: set one of its keys {', '.join(node[last])}")
    node[last] = _parse(text, path, node[last], node.get_type(last))


def _check_key(node: Any, parent: str, key: str, more: Sequence[str] = ()) -> None:
    """InputError unless `node` is a section with `key`; it names the nearest key, or of `more`."""
    if not isinstance(node, ConfigDict):
        raise InputError(f"{parent} is a value, not a section: it has no key {key!r}")
    if key not in node:
        raise unknown(parent, key, sorted({*node, *more}))


def unknown(parent: str, key: str, known: Sequence[str]) -> InputError:
    """What to say of a key that is not there: the nearest, or all where none is near."""
    likely = nearest(key, known)
    hint = f"did you mean {_join(parent, likely)}?" if likely else f"choose of {_few(known)}"
    return InputError(f"config has no key {_join(parent, key)}; {hint}")


def _few(names: Sequence[str]) -> str:
    """The first names of a list, and that there are more."""
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")


def _join(parent: str, key: str) -> str:
    return f"{parent}.{key}" if parent else key


def _parse(text: str, path: str, old: Any, kind: type) -> Any:
    """The text as a value of `kind`; a key that is None takes what Python or JSON makes of it."""
    if old is None and text.strip() == "None":
        return None
    if kind is type(None):
        return _literal(text)
    if kind in (tuple, list):
        return _parse_sequence(text, path, old, kind)
    booleans = {"true": True, "1": True, "false": False, "0": False}
    try:
        return booleans[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} takes {kind.__name__}, not {text!r}") from error


def _literal(text: str) -> Any:
    """What Python or JSON reads in a text; the text itself where neither reads any."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return text


def _parse_sequence(text: str, path: str, old: Sequence[Any] | None, kind: type) -> Any:
    """(1, 2), [1, 2] or 1,2; strings with quotes or without; nested where the old value is."""
    example = old[0] if old else None
    plain = isinstance(example, str) and not set(text) & set("'\"")
    found = text if plain else _literal(text)
    if found is text:
        parts = [part.strip() for part in _within_brackets(text.strip()).split(",")]
        found = [part if plain else _literal(part) for part in parts if part]
    elif not isinstance(found, tuple | list):
        found = [found]
    if old and not found and not isinstance(example, str):  # of names there may be none
        raise InputError(f"{path} takes one value or more, not {text!r}")
    return kind(_fit(value, path, example) for value in found)


def _within_brackets(text: str) -> str:
    """What one pair of brackets encloses as a whole: "a (1)" has none, nor has "(1) a (2)"."""
    inside = text[1:-1]
    depth = itertools.accumulate((c in "([") - (c in ")]") for c in inside)
    return inside if text[:1] + text[-1:] in ("()", "[]") and min(depth, default=0) >= 0 else text


def _fit(value: Any, path: str, example: Any) -> Any:
    """An element as its type is there: ints may stand for floats, lists for tuples."""
    if example is None or type(value) is type(example):
        nested = isinstance(example, tuple | list) and example
        return type(example)(_fit(v, path, example[0]) for v in value) if nested else value
    if isinstance(example, tuple | list) and isinstance(value, tuple | list):
        return _fit(type(example)(value), path, example)
    if isinstance(example, float) and type(value) is int:
        return float(value)
    raise InputError(f"{path} takes {type(example).__name__}, not {value!r}")


def _build(value: Any, path: str, kind: Any) -> Any:
    """A dataclass from a section, recursively."""
    if not isinstance(value, ConfigDict | dict):
        raise InputError(f"{path} is a value, but {kind.__name__} needs a section")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    for key in value:
        if key not in fields:
            raise unknown(path, key, list(fields))
    for name, field in fields.items():
        required = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if required and name not in value:
            raise InputError(f"config lacks {_join(path, name)} ({_name(hints[name])})")
    converted = _each((key, value[key], _join(path, key), hints[key]) for key in value)
    try:
        return kind(**converted)
    except ValueError as error:  # values of the right types that do not go together
        raise OutOfRange(f"{path}: {error}") from error


def _each(items: Iterable[tuple[Any, Any, str, Any]]) -> dict[Any, Any]:
    """Key -> converted value of (key, value, path, hint); one error has the lines of all."""
    found, errors = {}, []
    for key, value, path, hint in items:
        try:
            found[key] = _convert(value, path, hint)
        except InputError as error:
            errors.append(error)
    if errors:
        kind = OutOfRange if all(isinstance(e, OutOfRange) for e in errors) else InputError
        raise kind(*(line for error in errors for line in error.args))
    return found


def _convert(value: Any, path: str, hint: Any) -> Any:
    """The value as the annotated type: ints may stand for floats and lists for tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or (hint is type(None) and value is None):
        return value
    if origin is Annotated:
        return _within(_convert(value, path, args[0]), path, args[1])
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build(value, path, hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(value, path, hint, args)
    if origin is typing.Literal and any(value == x and type(value) is type(x) for x in args):
        return value
    if origin in (dict, Mapping) and isinstance(value, ConfigDict | dict):
        return _each((key, value[key], _join(path, key), args[1]) for key in value)
    if origin in (tuple, list, Sequence) and isinstance(value, tuple | list):
        return _convert_elements(value, path, hint)
    if hint is float and type(value) in (int, float):
        return _finite(value, path)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise _takes(hint, value, path)


def _takes(hint: Any, value: Any, path: str) -> InputError:
    return InputError(f"{path} takes {_name(hint)}, not {_told(value)}")


def _finite(value: float, path: str) -> float:
    """A number that is one, as a float."""
    if not -LARGEST < value < LARGEST:
        raise OutOfRange(f"{path}={_told(value)}: give a finite number")
    return float(value)


def _within(value: Any, path: str, allowed: Range) -> Any:
    if value not in allowed:
        beyond = allowed.most == Range.most and value > allowed.most  # what nobody comes near
        wanted = f"at most {allowed.most}" if beyond else f"{allowed}"
        raise OutOfRange(f"{path}={_told(value)}: give {wanted}")
    return value


def _first_that_fits(value: Any, path: str, hint: Any, options: Sequence[Any]) -> Any:
    for option in options:
        try:
            return _convert(value, path, option)
        except OutOfRange:
            raise
        except InputError:
            continue
    raise _takes(hint, value, path)


def _convert_elements(value: Sequence[Any], path: str, hint: Any) -> Any:
    """tuple[X, ...], tuple[X, Y] or list[X]."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    fixed = origin is tuple and Ellipsis not in args
    if fixed and len(args) != len(value):
        raise _takes(hint, value, path)
    hints = args if fixed else args[:1] * len(value)
    pairs = zip(value, hints, strict=True)
    found = _each((i, x, f"{path}[{i}]", h) for i, (x, h) in enumerate(pairs))
    return tuple(found.values()) if origin is Sequence else origin(found.values())


def _name(hint: Any) -> str:
    """A type in words; of a literal its values."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _name(args[0])
    if origin is typing.Literal:
        return " or ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_name, args))
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and not args else str(hint)


def _told(value: Any) -> str:
    """A value in a message; Python writes no int of more than 4,300 digits."""
    huge = type(value) is int and abs(value) > LARGEST
    return "a huge number" if huge else reprlib.repr(value)
