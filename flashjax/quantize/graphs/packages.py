"""Packages that only some formats need: asked for by name, missed in one line."""

import importlib
from types import ModuleType

from flashjax.types import InputError


def package(name: str) -> ModuleType:
    """The optional package `name`. InputError says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise InputError(
            f"this format needs the package {name}: pip install {name} "
            "(requirements-deploy.txt has the versions that were run)"
        ) from error
