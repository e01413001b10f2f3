"""The table of an ablation: cells that differ in the seed alone, together, with intervals.

Letters: n seeds.
"""

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from flashjax.data.jsons import read_array, read_json
from flashjax.stages.stage import stage_results
from flashjax.stages.training import curves
from flashjax.tools.ablate.cell import (
    BROKEN,
    CELLS,
    HALVED,
    JUDGED,
    SHARED,
    SHOWN,
    STUDENT,
    TEACHER,
    state_of,
)
from flashjax.tools.ablate.grid import AblateConfig, Cell, cells, terms_of
from flashjax.types import InputError, listed

LEVEL = 0.95
ASKED = "asked"  # which config a cell's results came of
ERROR = "error"  # what a cell says that broke

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Value:
    """A mean over seeds, half of its interval of 95 % (None of one seed), and what there is to it.

    The interval is Student's t of the seeds: it has in it what matching draws, and not what another
    set of captions would change, which is the same for all rows.
    """

    mean: float
    half: float | None
    seeds: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm: its values by figure, how many of its seeds broke, and its first pictures."""

    steps: int
    arm: str
    trajectory: float | None
    pull: float | None
    split: str
    values: Mapping[str, Value]
    broken: int = 0
    weights: Sequence[Mapping[str, float]] = ()
    pictures: np.ndarray | None = None


def value_of(found: Sequence[float]) -> Value:
    """Mean and interval of one value for each seed."""
    mean = float(np.mean(found))
    if len(found) < 2:
        return Value(mean, None, len(found))
    tail = float(stats.t.ppf((1 + LEVEL) / 2, len(found) - 1))
    return Value(mean, tail * float(np.std(found, ddof=1)) / math.sqrt(len(found)), len(found))


Brought: TypeAlias = Mapping[str, Mapping[str, Any]]  # results of cells that others ran, by name
Asked: TypeAlias = Callable[[Cell], str]  # what tells a cell from that of another config


def ended(
    every: Sequence[Cell], workdir: Path, brought: Brought
) -> tuple[dict[Cell, Any], dict[Cell, str]]:
    """What the cells came to that are done, and what those say that broke, here or elsewhere."""
    done: dict[Cell, Any] = {}
    broken: dict[Cell, str] = {}
    for cell in every:
        place, state = workdir / CELLS / cell.name, state_of(cell, workdir)
        if state == "done":
            done[cell] = judged(place)
        elif state == "broken":
            broken[cell] = read_json(place / BROKEN)["error"]
        elif ERROR in brought.get(cell.name, {}):
            broken[cell] = brought[cell.name][ERROR]
        elif cell.name in brought:
            done[cell] = brought[cell.name]
    return done, broken


def rows_of(grid: AblateConfig, workdir: Path, brought: Brought) -> list[Row]:
    """The rows of all that is done so far: of each number of steps what is guided, arms, splits.

    A student that draws in half as many steps, too, has a second row there.
    """
    groups: dict[Cell, list[Cell]] = {}
    for cell in cells(grid):
        groups.setdefault(dataclasses.replace(cell, seed=0), []).append(cell)
    order = {steps: place for place, steps in enumerate(grid.steps)}
    every = [
        row for group in groups.values() for row in rows_of_group(grid, group, workdir, brought)
    ]
    found = [row for row in every if row.steps in order]
    return sorted(found, key=lambda row: (order[row.steps], bool(row.split)))


def rows_of_group(
    grid: AblateConfig, group: Sequence[Cell], workdir: Path, brought: Brought
) -> list[Row]:
    """The rows of cells that differ in the seed alone; none where none of them is at its end."""
    done, broken = ended(group, workdir, brought)
    if not done and not broken:
        return []
    first, results = group[0], list(done.values())
    paths = [workdir / CELLS / cell.name / JUDGED / SHOWN for cell in done]
    shown = next((read_array(path) for path in paths if path.is_file()), None)
    trajectory, pull = terms_of(grid, first) if first.arm else (None, None)
    row = Row(
        steps=first.steps,
        arm=first.arm,
        trajectory=trajectory,
        pull=pull,
        split=first.split,
        values=values_of([result[STUDENT] for result in results]),
        broken=len(broken),
        weights=[result["weights"] for result in results if "weights" in result],
        pictures=shown,
    )
    halved = [result[HALVED] for result in results if HALVED in result]
    if not halved:
        return [row]
    half = dataclasses.replace(
        row,
        steps=row.steps // 2,
        arm=f"{row.arm}, of {row.steps} steps",
        values=values_of(halved),
        broken=0,
        pictures=None,
    )
    return [row, half]


def values_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
    """Means and intervals of the figures of rows that differ in the seed alone.

    A judge may have been left out where its weights were not: each figure is of the rows with it.
    """
    figures = [{figure["name"]: figure["value"] for figure in row["figures"]} for row in rows]
    names = dict.fromkeys(name for found in figures for name in found)
    return {name: value_of([f[name] for f in figures if name in f]) for name in names}


def judged(place: Path) -> dict[str, Any]:
    """What a stage's judges said, by names that need no heading above them."""
    found = stage_results(place / JUDGED)
    return {
        key: apart(x) if isinstance(x, dict) and "figures" in x else x for key, x in found.items()
    }


def apart(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose figures have names of their own: of like ones the heading goes before each."""
    often = Counter(figure["name"] for figure in row["figures"])

    def called(figure: Mapping[str, Any]) -> str:
        name, heading = figure["name"], figure["heading"]
        return f"{heading}, {name}" if heading and often[name] > 1 else name

    return {**row, "figures": [{**figure, "name": called(figure)} for figure in row["figures"]]}


def references(workdir: Path) -> dict[str, Any]:
    """Figures of the teacher in full and of real pictures, and what the judges say of theirs."""
    return judged(workdir / SHARED)


def brought_by(
    paths: Sequence[str], every: Sequence[Cell], workdir: Path, asked: Asked
) -> dict[str, Any]:
    """The results in tables that other workdirs or machines made of this grid's cells.

    InputError where a cell is another one, or where their teacher, drawn and judged alike, came to
    something else.
    """
    found: dict[str, Any] = {}
    for path in paths:
        if not Path(path).is_file():
            raise InputError(f"--others {path}: there is no such file; give an ablation.json")
        table = read_json(Path(path))
        try:
            theirs = table[TEACHER]["figures"][0]
            results = {name: slim(result) for name, result in table["results"].items()}
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise InputError(
                f"--others {path}: no ablation.json with its cells' results"
            ) from error
        ours = references(workdir)[TEACHER]["figures"][0]
        if theirs["name"] != ours["name"] or not _close(theirs["value"], ours):
            told = (f"{figure['name']} {figure['value']}" for figure in (theirs, ours))
            raise InputError(
                f"--others {path}: its teacher has {', this one '.join(told)}: other captions, or "
                "another config"
            )
        check_asked(path, results, every, asked)
        found = results | found
    return {cell.name: found[cell.name] for cell in every if cell.name in found}


def check_asked(path: str, results: Mapping[str, Any], every: Sequence[Cell], asked: Asked) -> None:
    """InputError for cells of a table that another config's arms came to."""
    told = {cell: results[cell.name].get(ASKED, "") for cell in every if cell.name in results}
    others = [cell.name for cell, digest in told.items() if digest and digest != asked(cell)]
    if others:
        raise InputError(
            f"--others {path}: {listed(others)} came of another config: give the one that it was "
            "made with, or leave that file out"
        )
    if unsaid := [cell.name for cell, digest in told.items() if not digest]:
        log.warning("%s does not say which config %s came of", path, listed(unsaid))


def _close(value: float, figure: Mapping[str, Any]) -> bool:
    """Whether it is that figure but for what another machine's last bits make of it."""
    return abs(value - figure["value"]) <= (figure["error"] or 0.0) / 2


def slim(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a cell as a table keeps them: of its figures names and values."""
    kept = {key: results[key] for key in ("weights", ASKED, ERROR) if key in results}
    for name in (STUDENT, HALVED):
        if name in results:
            figures = [{k: f[k] for k in ("name", "value")} for f in results[name]["figures"]]
            kept[name] = {"figures": figures}
    return kept


def summary(
    grid: AblateConfig,
    workdir: Path,
    command: str,
    brought: Brought,
    asked: Asked,
) -> dict[str, Any]:
    """All that the table says, as JSON."""
    every = cells(grid)
    done, broken = ended(every, workdir, brought)
    results = done | {cell: {ERROR: error} for cell, error in broken.items()}
    here = {cell for cell in results if state_of(cell, workdir)}
    shared = references(workdir)
    told = []
    for row in rows_of(grid, workdir, brought):
        plain = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
        values = {name: dataclasses.asdict(value) for name, value in row.values.items()}
        told.append({k: v for k, v in plain.items() if k != "pictures"} | {"values": values})
    return {
        "command": command,
        "cells": {
            "all": len(every),
            "done": len(done),
            "broken": {cell.name: error for cell, error in broken.items()},
        },
        TEACHER: shared[TEACHER],
        "real": shared["real"],
        "notes": shared["notes"],
        "rows": told,
        "results": {
            cell.name: slim(found | ({ASKED: asked(cell)} if cell in here else {}))
            for cell, found in results.items()
        },
    }


def curves_of(
    grid: AblateConfig, workdir: Path, steps: int, metrics: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Some metrics of matching of every arm that has begun, with the first seed and terms."""
    found = {}
    for arm in grid.arms:
        cell = Cell(steps, arm, grid.trajectory[0], grid.pull[0], grid.seeds[0])
        records = curves(workdir / CELLS / cell.name / "match")
        kept = [{k: r[k] for k in ("step", *metrics) if k in r} for r in records]
        if kept:
            found[arm] = kept
    return found
