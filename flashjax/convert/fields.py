"""The fields of a config.json, read one by one: absent ones are as the library has them.

Whatever a field holds that its class would stumble over, or would take for something else, is
refused by the field's name.
"""

import functools
import logging
import reprlib
from collections.abc import Mapping
from typing import Any

from flashjax.types import InputError

LARGEST = 2**20  # of any size of a network

log = logging.getLogger(__name__)


class Fields:
    """A config and the defaults of its class; `where` names its file in messages."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
        self._config, self._defaults, self._where = config, defaults, where

    def __call__(self, key: str) -> Any:
        """The value of `key`, whatever it is."""
        return self._config.get(key, self._defaults[key])

    def whole(self, key: str, *, most: int = LARGEST) -> int:
        """A number of things, at least one."""
        value = self(key)
        if not _is_whole(value, most):
            raise self.refused(key, f"a whole number from 1 to {most}")
        return value

    def wholes(self, key: str, *, most: int) -> tuple[int, ...]:
        """Such numbers: at least one, `most` at most."""
        value = self(key)
        fits = isinstance(value, list | tuple) and 1 <= len(value) <= most
        if not fits or not all(map(_is_whole, value)):
            raise self.refused(key, f"a list of 1 to {most} whole numbers from 1 to {LARGEST}")
        return tuple(value)

    def number(self, key: str, *, above: float = -LARGEST) -> float:
        """A number between `above` and LARGEST."""
        value = self(key)
        if type(value) not in (int, float) or not above < value < LARGEST:
            raise self.refused(key, f"a number above {above} and below {LARGEST}")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false; null is neither."""
        value = self(key)
        if not isinstance(value, bool):
            raise self.refused(key, "true or false")
        return value

    def require(self, key: str, *known: Any) -> Any:
        """The value of `key`, which must be one of `known`, and of its type: 0 is not false."""
        value = self(key)
        if not any(value == one and type(value) is type(one) for one in known):
            raise self.refused(key, " or ".join(map(repr, known)))
        return value

    def refused(self, key: str, wanted: str) -> InputError:
        """The error for a field that is not what is `wanted`."""
        source = "" if key in self._config else ", the default where it is absent"
        told = f"{self._where}: {key} is {reprlib.repr(self(key))}{source}"
        return InputError(f"{told}; only {wanted} is supported")

    def say_unknown(self) -> None:
        """Logs the keys that the class does not have; libraries leave them aside, and so do we."""
        strange = [key for key in self._config if key not in self._defaults and key[:1] != "_"]
        if strange:
            say(f"{self._where}: {reprlib.repr(strange)} are no keys of its class, left aside")


@functools.cache
def say(line: str) -> None:
    """Logs a line about a source: once, however often the source is opened."""
    log.info("%s", line)


def _is_whole(value: Any, most: int = LARGEST) -> bool:
    return type(value) is int and 1 <= value <= most
