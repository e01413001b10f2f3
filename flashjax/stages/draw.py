"""`draw`: pictures that the teacher draws for captions that have none, a part of `prepare`.

All devices draw every batch together; a tar that is there is not drawn again. The noise of a sample
depends on the seed and its number alone.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.data.config import DataConfig
from flashjax.data.kinds.drawn import shards_of, write_shard
from flashjax.data.samples import Samples
from flashjax.evaluate.sample import Sampler, noise_key
from flashjax.flow.schedule import sampler_sigmas
from flashjax.parallel.hosts import meet
from flashjax.parallel.mesh import make_mesh, without_branches
from flashjax.parallel.watch import alive
from flashjax.stages.drawing import fetched, filled, first_sees, make_studio
from flashjax.stages.model import open_model
from flashjax.stages.registry import DRAWN, undrawn
from flashjax.stages.stage import run_stage
from flashjax.types import InputError

Draw = Callable[[Sequence[str], Sequence[int]], np.ndarray]

log = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws what `data.draw` asks for, a stage in workdir/data/draw; nothing without steps."""
    data = configs.section(config, "data", DataConfig)
    if not data.draw.steps:
        return {}
    wanted = captions_of(config, workdir / "data")

    def body(folder: Path) -> dict[str, Any]:
        draw = open_teacher(config, workdir, data)
        first = 0
        for place, samples in wanted.items():
            draw_all(draw, samples, folder / place.name, first, batch=data.draw.batch_size)
            first += len(samples)
        return {"pictures": first}

    asked = {
        "draw": dataclasses.asdict(data.draw),
        "size": data.size,
        "captions": {place.name: samples.digest for place, samples in wanted.items()},
    }
    inputs = {"import": workdir / "import"}
    return run_stage(DRAWN, asked, workdir / "data", body, inputs=inputs, seed=data.seed)


def steps_of(config: ConfigDict) -> int:
    """Of the teacher, where it draws pictures; 0 where it does not."""
    return config.data.get("draw", {}).get("steps", 0)


def captions_of(config: ConfigDict, folder: Path) -> dict[Path, Samples]:
    """What is to be drawn, by where it goes. InputError where all have pictures already."""
    wanted = undrawn(config, folder)
    if not wanted:
        raise InputError(
            f"data.draw.steps={config.data.draw.steps}, but data.source has pictures: give a file "
            f"of prompts, or set it to 0"
        )
    return wanted


def check_batch(batch_size: int, shape: Mapping[str, int]) -> None:
    """InputError unless a batch splits over the devices of a mesh."""
    rows = shape["data"] * shape["fsdp"]
    if batch_size % rows:
        raise InputError(
            f"data.draw.batch_size={batch_size} does not split over data x fsdp = {rows} devices: "
            f"make it a multiple of {rows}"
        )


def draw_all(draw: Draw, samples: Samples, folder: Path, first: int, *, batch: int) -> None:
    """Writes the tars of all samples that are not there yet; `first` is the number of the first."""
    shards = list(shards_of(folder, len(samples)).items())
    for number, (path, chosen) in enumerate(shards):
        if first_sees(path.is_file()):
            continue
        captions = [samples[index].caption for index in chosen]
        numbers = [first + index for index in chosen]
        images = _in_batches(draw, captions, numbers, batch)
        if number % jax.process_count() == jax.process_index():
            write_shard(path, chosen.start, captions, images)
        log.info("draw: %s, %d of %d tars", folder.name, number + 1, len(shards))
    meet(f"{folder} is drawn")


def open_teacher(config: ConfigDict, workdir: Path, data: DataConfig) -> Draw:
    """`draw(captions, numbers) -> images uint8 "n H W 3"`, on the host."""
    mesh = make_mesh(without_branches(config.mesh))
    check_batch(data.draw.batch_size, mesh.shape)
    pipeline, tokenizer = open_model(workdir, mesh)
    studio = make_studio(config, mesh, pipeline, tokenizer([""]))
    teacher = studio.place(pipeline.transformer, role="teacher")
    grid = sampler_sigmas(data.draw.steps, pipeline.schedule, studio.pipeline.tokens)
    sampler = Sampler(tuple(grid.tolist()), data.draw.guidance_scale)
    key = noise_key(data.seed)

    def noise(numbers: Array) -> Array:
        one = lambda number: jax.random.normal(jax.random.fold_in(key, number), studio.shape)
        return jax.vmap(one)(numbers)

    program = studio.program(sampler, noise)

    chunk = studio.chunk(data.draw.batch_size, sampler, tokenizer([""]))

    def draw(captions: Sequence[str], numbers: Sequence[int]) -> np.ndarray:
        tokens, numbered = tokenizer(list(captions)), np.asarray(numbers, np.uint32)
        parts = []
        for row in filled(len(captions), chunk, studio.rows):
            part = jax.tree.map(lambda column: column[row], tokens)  # noqa: B023
            parts.append(fetched(program(teacher, part, numbered[row])))
        return np.concatenate(parts)[: len(captions)]

    return draw


def _in_batches(
    draw: Draw, captions: Sequence[str], numbers: Sequence[int], batch: int
) -> np.ndarray:
    """All pictures; the last batch is filled up with others, which are dropped."""
    rows = filled(len(captions), batch, batch)
    drawn = []
    for row in rows:
        alive(f"draws from number {numbers[row[0]]}")
        drawn.append(draw([captions[i] for i in row], [numbers[i] for i in row]))
    return np.concatenate(drawn)[: len(captions)]
