"""Patterns of files: {000..127}, {a,b}, * and ?, on this machine or elsewhere."""

import itertools
import re

from flashjax.data.files import Address
from flashjax.types import InputError

_WILD = "*?["


def is_pattern(text: str) -> bool:
    """Whether a text stands for several files."""
    return any(mark in text for mark in f"{{{_WILD}")


def expand(pattern: str) -> list[Address]:
    """The files of a pattern with {000..127}, {a,b} or *. InputError for one that is missing."""
    found: list[Address] = []
    for text in _braces(pattern):
        address = Address.of(text)
        named = address.matching() if any(mark in text for mark in _WILD) else [address]
        missing = [address for address in named if not address.is_file()]
        if missing or not named:
            raise InputError(f"{missing[0] if missing else text} does not exist: no such file")
        found += named
    return found


def _braces(pattern: str) -> list[str]:
    parts: list[list[str]] = []
    for text, inside in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", pattern):
        parts.append([text])
        if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
            first, last = numbers.groups()
            parts.append([f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)])
        elif inside:
            parts.append(inside.split(","))
    return list(dict.fromkeys("".join(chosen) for chosen in itertools.product(*parts)))
