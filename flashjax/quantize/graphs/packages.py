"""Packages that only some formats need: asked for by name, missed in one line."""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from flashjax.types import InputError


def package(name: str) -> ModuleType:
    """The optional package `name`. InputError says how to install it."""
    try:
        with quiet():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise InputError(
            f"this format needs the package {name}: pip install {name} "
            "(requirements-deploy.txt has the versions that were run)"
        ) from error


@contextlib.contextmanager
def without_bars(module: Any) -> Iterator[None]:
    """Hides the bars that a module draws with its tqdm, of steps that take no time."""
    bars, module.tqdm = module.tqdm, lambda items, **_: items
    try:
        yield
    finally:
        module.tqdm = bars


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides warnings of what coremltools looks for and does not need: torch, sklearn, macOS."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
