"""`sample`: what is drawn as files: a PNG for each picture, and tables of them side by side."""

import argparse
import dataclasses
import functools
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flashjax.convert.outputs import check_free, is_file_name, keep_record, places
from flashjax.convert.pipeline import Pipeline
from flashjax.evaluate.grids import grid, labelled, parameters, save_png
from flashjax.evaluate.room import fitting, picture_bytes
from flashjax.evaluate.sample import Prompts, Sample, Sampler, draw_seeds, make_sample
from flashjax.tools.axes import NONE, Axis, told
from flashjax.types import Tokens

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
        return dict(zip(names, places(self.out, names), strict=True))

    def check(self, *, force: bool) -> None:
        """InputError where something is that is not ours to write over."""
        sources = [Path(path) for path in self.sources.values()]
        check_free(self.paths.values(), force=force, read=sources)

    def draw(
        self,
        label: str,
        number: int,
        pipeline: Pipeline,
        sampler: Sampler,
        tokens: Tokens,
        empty: Prompts,
        *,
        size: tuple[int, int],
    ) -> None:
        """Draws all prompts with a source and the settings of a cell; a PNG as each is done."""
        cell, started = self.cells[number], time.perf_counter()
        weights = {"transformer": pipeline.transformer, "vae": pipeline.vae, "text": pipeline.text}
        sizes = dataclasses.replace(pipeline, transformer=None, vae=None, text=None)
        images = draw_seeds(
            program(sizes, sampler),
            weights,
            tokens,
            empty,
            seed=cell.seed,
            shape=(*size, pipeline.transformer_config.channels),
            chunk=fitting(
                min(cell.batch, len(self.prompts)),
                jax.device_count(),
                picture_bytes(sizes, tokens, size, guided=sampler.guidance_scale != 1.0),
            ),
        )
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

    def _name(self, index: int, label: str, number: int) -> str:
        cell, parts = self.cells[number], [f"{index:04}"]
        if len(self.sources) > 1:
            parts.append(re.sub(r"[^\w.-]+", "_", label)[-40:])
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


@functools.cache
def program(pipeline: Pipeline, sampler: Sampler) -> Sample:
    """The program for a model's sizes, without its weights: sources of equal sizes share it."""
    return make_sample(pipeline, sampler)
