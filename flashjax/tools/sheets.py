"""`sample`: what is drawn as files: a PNG for each picture, and tables of them side by side."""

import argparse
import dataclasses
import functools
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flashjax.convert.outputs import check_free, is_file_name, keep_record, places
from flashjax.evaluate.grids import grid, labelled, parameters, save_png
from flashjax.tools.axes import NONE, Axis, told
from flashjax.types import InputError

COLUMNS, SHOWN = 8, 64  # of the grid of all pictures; how many of them it has at most
SOLVER_NAMES = {"euler": "Euler", "dpmpp_2m": "DPM++ 2M"}  # as other tools call them
SETTINGS = (
    "base lora negative_prompt steps grid solver guidance_scale skip_layers size dtype absent_t5"
).split()

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Prompts, sources and cells of settings: every picture of them, and where it goes.

    `sources` is label -> path; `cells` are the flags of each cell of the table `rows` x `columns`.
    """

    out: Path
    prompts: list[str]
    sources: dict[str, str]
    columns: Axis
    rows: Axis
    cells: list[argparse.Namespace]
    _kept: dict[tuple[int, str, int], np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def compares(self) -> bool:
        """Whether there is more than one picture of a prompt."""
        return len(self.cells) * len(self.sources) > 1

    @functools.cached_property
    def paths(self) -> dict[str, Path]:
        """Where everything goes, by its name in a folder; a single file has only itself.

        InputError where a file's name is given for several.
        """
        sheets = [f"xy-{i:04}.png" for i in range(len(self.prompts))]
        sheets = sheets if self.compares else ["grid.png"]
        names = [self._name(*place) for place in self._places()]
        if is_file_name(self.out):
            names = sheets if self.compares else names
        else:
            names += sheets
        if again := [name for name, number in Counter(names).items() if number > 1]:
            raise InputError(f"{again[0]} would be of several pictures: give each setting once")
        return dict(zip(names, places(self.out, names), strict=True))

    def check(self, *, force: bool) -> None:
        """InputError where something is that is not ours to write over."""
        sources = [Path(path) for path in self.sources.values()]
        check_free(self.paths.values(), force=force, read=sources)

    def keep(self, label: str, number: int, images: Iterable[np.ndarray]) -> None:
        """Writes what a source draws of all prompts with the settings of a cell, as it is done."""
        started = time.perf_counter()
        for index, image in enumerate(images):
            self._save(index, label, number, image)
        seconds = time.perf_counter() - started
        log.info("%s: %d pictures in %.1f s", label, len(self.prompts), seconds)

    def finish(self) -> Path:
        """Writes the tables; returns the path of the first, or of the one picture."""
        if self.compares:
            for index, prompt in enumerate(self.prompts):
                self._write(f"xy-{index:04}.png", self._table(index), {"prompt": prompt})
        elif "grid.png" in self.paths:
            self._write("grid.png", self._all(), {"prompts": self.prompts[:SHOWN]})
        return list(self.paths.values())[-len(self.prompts) if self.compares else -1]

    def _places(self) -> Iterator[tuple[int, str, int]]:
        """Number of the prompt, label of the source, number of the cell: of every picture."""
        for label in self.sources:
            for number in range(len(self.cells)):
                yield from ((index, label, number) for index in range(len(self.prompts)))

    @functools.cached_property
    def _labels(self) -> dict[str, str]:
        """What each source is called in names of files: its number, too, where others are alike."""
        short = {label: re.sub(r"[^\w.-]+", "_", label)[-40:] for label in self.sources}
        alike = Counter(name.casefold() for name in short.values())  # as some disks take them
        return {
            label: f"{number}-{name}" if alike[name.casefold()] > 1 else name
            for number, (label, name) in enumerate(short.items())
        }

    def _name(self, index: int, label: str, number: int) -> str:
        cell, parts = self.cells[number], [f"{index:04}"]
        if len(self.sources) > 1:
            parts.append(self._labels[label])
        axes = [axis for axis in (self.columns, self.rows) if axis is not NONE]
        parts += [f"{axis.name}={told(getattr(cell, axis.name))}" for axis in axes]
        return "-".join(parts) + ".png"

    def _save(self, index: int, label: str, number: int, image: np.ndarray) -> None:
        if self.compares or index < SHOWN:
            self._kept[index, label, number] = image
        name = self._name(index, label, number)
        if name not in self.paths:
            return
        cell, prompt = self.cells[number], self.prompts[index]
        settings = {
            "Steps": cell.steps,
            "Sampler": SOLVER_NAMES[cell.solver],
            "CFG scale": f"{cell.guidance_scale:g}",
            "Seed": cell.seed + index,
            "Size": f"{image.shape[1]}x{image.shape[0]}",
            "Model": label,
            "Version": "flashjax",
        }
        self._write(
            name,
            image,
            {"prompt": prompt, "seed": cell.seed + index, "source": self.sources[label]}
            | {name: getattr(cell, name) for name in SETTINGS},
            parameters=parameters(prompt, cell.negative_prompt, settings),
        )

    def _write(self, name: str, picture: np.ndarray, settings: dict[str, Any], **text: str) -> None:
        settings |= {"jax": jax.__version__}
        save_png(self.paths[name], picture, text=text | {"settings": json.dumps(settings)})
        keep_record(self.paths[name])

    def _table(self, index: int) -> np.ndarray:
        """All pictures of a prompt, a row for each source and value."""
        wide = len(self.columns.values)
        rows, labels = [], []
        for label in self.sources:
            pictures = [self._kept[index, label, number] for number in range(len(self.cells))]
            rows += [pictures[start : start + wide] for start in range(0, len(pictures), wide)]
            source = [label] if len(self.sources) > 1 else []
            labels += [", ".join([*source, *filter(None, [text])]) for text in self.rows.labels]
        return labelled(np.array(rows), rows=labels, columns=self.columns.labels)

    def _all(self) -> np.ndarray:
        """The first pictures of a run without a table."""
        images = np.array(list(self._kept.values()))
        columns = min(COLUMNS, len(images))
        blank = np.full((-len(images) % columns, *images.shape[1:]), 255, np.uint8)
        return grid(np.concatenate([images, blank]).reshape(-1, columns, *images.shape[1:]))
