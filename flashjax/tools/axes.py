"""`sample --xy`: the same prompts and noise, drawn once for every cell of a table of settings."""

import argparse
import copy
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashjax.sources import name_of
from flashjax.types import InputError

AXES: Mapping[str, tuple[str, type]] = {  # as it is asked for: the flag, the type of its values
    "steps": ("steps", int),
    "guidance": ("guidance_scale", float),
    "guidance_scale": ("guidance_scale", float),
    "solver": ("solver", str),
    "grid": ("grid", str),
    "seed": ("seed", int),
    "skip_layers": ("skip_layers", str),
}
BETWEEN = {"skip_layers": ";"}  # of values that have commas inside


@dataclass(frozen=True)
class Axis:
    """A flag and the values that it takes in turn."""

    name: str
    values: tuple[object, ...]

    @property
    def labels(self) -> list[str]:
        return [f"{self.name.removesuffix('_scale')} {told(v)}".strip() for v in self.values]


NONE = Axis("", ("",))


def told(value: object) -> str:
    """A value as people write it: 4 for 4.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_axes(texts: Sequence[str], choices: Mapping[str, Sequence[str]]) -> tuple[Axis, Axis]:
    """The axes of columns and rows from "steps=4,2" and "guidance=1,4"; NONE where there is none.

    `choices` are the values that a flag may take where they are few. InputError for others.
    """
    if len(texts) > 2:
        raise InputError(f"--xy has {len(texts)} axes: give one or two")
    found = [_parse(text, choices) for text in texts]
    if len({axis.name for axis in found}) < len(found):
        raise InputError(f"--xy {' '.join(texts)}: both axes are {found[0].name}")
    columns, rows, *_ = (*found, NONE, NONE)
    return columns, rows


def _parse(text: str, choices: Mapping[str, Sequence[str]]) -> Axis:
    name, equals, values = text.partition("=")
    if name not in AXES or not equals:
        raise InputError(f"--xy {text}: give NAME=VALUE,VALUE with a NAME of {', '.join(AXES)}")
    flag, kind = AXES[name]
    try:
        parsed = tuple(kind(value) for value in values.split(BETWEEN.get(flag, ",")))
    except ValueError as error:
        raise InputError(f"--xy {text}: {name} takes values of {kind.__name__}") from error
    if len(set(parsed)) < len(parsed):
        raise InputError(f"--xy {text}: a value is there twice")
    for value in parsed:
        if flag in choices and value not in choices[flag]:
            raise InputError(f"--xy {text}: choose of {', '.join(choices[flag])}")
    return Axis(flag, parsed)


def cells(options: argparse.Namespace, columns: Axis, rows: Axis) -> list[argparse.Namespace]:
    """The flags of every cell, row by row."""
    found = []
    for y, x in itertools.product(rows.values, columns.values):
        cell = copy.copy(options)
        for axis, value in ((rows, y), (columns, x)):
            if axis is not NONE:
                setattr(cell, axis.name, value)
        found.append(cell)
    return found


def sources_of(text: str, known: Sequence[str]) -> dict[str, str]:
    """Label -> path of each source of "A,B"; a path with a comma that is there is one."""
    paths = [text] if text in known or os.path.exists(text) else text.split(",")
    if "" in paths:
        raise InputError(f"--source {text}: give a path, or several with commas between")
    labels = [path if path in known else name_of(Path(path)) for path in paths]
    if len(set(labels)) < len(labels):
        labels = paths
    if len(set(labels)) < len(labels):
        raise InputError(f"--source {text}: one of them is there twice")
    return dict(zip(labels, paths, strict=True))
