"""`draw`: pictures that the teacher draws for captions that have none, a part of `prepare`.

All devices draw every batch together; a tar that is there is not drawn again. The noise of a sample
depends on the seed and its number alone.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax import trees
from flashjax.data.config import DataConfig
from flashjax.data.kinds.drawn import shards_of, write_shard
from flashjax.data.pipeline import to_mesh
from flashjax.data.samples import Samples
from flashjax.evaluate.sample import Sampler, make_sample, noise_key
from flashjax.flow.schedule import sampler_sigmas
from flashjax.models.attention import attend_on
from flashjax.models.mmdit import MMDiT
from flashjax.parallel.hosts import meet
from flashjax.parallel.layout import STATE
from flashjax.parallel.mesh import make_mesh, without_branches
from flashjax.parallel.sharding import constrain_on
from flashjax.stages.model import open_model
from flashjax.stages.registry import DRAWN, undrawn
from flashjax.stages.setting import DTYPES, compute_of, computed_text, data_side, lay_out
from flashjax.stages.stage import run_stage
from flashjax.types import InputError, Params, Tokens

Draw = Callable[[Sequence[str], Sequence[int]], Array]

log = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws what `data.draw` asks for, a stage in workdir/data/draw; nothing without steps."""
    data = configs.section(config, "data", DataConfig)
    if not data.draw.steps:
        return {}
    wanted = undrawn(config, workdir / "data")
    if not wanted:
        raise InputError(
            f"data.draw.steps={data.draw.steps}, but data.source has pictures: give a file of "
            f"prompts, or set it to 0"
        )

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


def draw_all(draw: Draw, samples: Samples, folder: Path, first: int, *, batch: int) -> None:
    """Writes the tars of all samples that are not there yet; `first` is the number of the first."""
    shards = list(shards_of(folder, len(samples)).items())
    for number, (path, chosen) in enumerate(shards):
        if _is_there(path):
            continue
        captions = [samples[index].caption for index in chosen]
        numbers = [first + index for index in chosen]
        images = _in_batches(draw, captions, numbers, batch)
        if number % jax.process_count() == jax.process_index():
            write_shard(path, chosen.start, captions, images)
        log.info("draw: %s, %d of %d tars", folder.name, number + 1, len(shards))
    meet(f"{folder} is drawn")


def open_teacher(config: ConfigDict, workdir: Path, data: DataConfig) -> Draw:
    """`draw(captions, numbers) -> images uint8 "n H W 3"`, whole on every device of the mesh."""
    mesh = make_mesh(without_branches(config.mesh))
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    if data.draw.batch_size % rows:
        raise InputError(
            f"data.draw.batch_size={data.draw.batch_size} does not split over data x fsdp = {rows} "
            f"devices: make it a multiple of {rows}"
        )
    pipeline, tokenizer = open_model(workdir, mesh)
    compute, whole = compute_of(config), NamedSharding(mesh, PartitionSpec())
    params = {
        "transformer": lay_out(
            trees.cast(pipeline.transformer, DTYPES[compute.teacher_dtype]), mesh, "teacher"
        ),
        "text": lay_out(trees.cast(pipeline.text, DTYPES[compute.text_dtype]), mesh, "text"),
        "vae": jax.device_put(pipeline.vae, whole),
    }
    sizes = dataclasses.replace(pipeline.transformer_config, dtype=DTYPES[compute.dtype])
    model = MMDiT(
        sizes,
        constrain=constrain_on(mesh, STATE),
        attend=attend_on(mesh, STATE, compute.attention),
    )
    text = computed_text(config, pipeline.text_config)
    pipeline = dataclasses.replace(pipeline, text_config=text)
    factor = pipeline.vae_config.factor
    side = data_side(config, pipeline.sample_size * factor) // factor
    grid = sampler_sigmas(data.draw.steps, pipeline.schedule, (side // sizes.patch) ** 2)
    sigmas = tuple(grid.tolist())
    sample = make_sample(pipeline, Sampler(sigmas, data.draw.guidance_scale), model=model)
    shape, key = (side, side, sizes.channels), noise_key(data.seed)
    empty = jax.device_put(tokenizer([""]), whole)

    def program(params: Params, tokens: Tokens, empty: Tokens, numbers: Array) -> Array:
        noise = jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(key, n), shape))(numbers)
        pictures = sample(params, tokens, empty, noise)
        return ((jnp.clip(pictures, -1.0, 1.0) + 1.0) * 127.5 + 0.5).astype(jnp.uint8)

    compiled = jax.jit(program, out_shardings=whole)

    def draw(captions: Sequence[str], numbers: Sequence[int]) -> Array:
        tokens = to_mesh(tokenizer(list(captions)), mesh)
        return compiled(params, tokens, empty, to_mesh(np.asarray(numbers, np.uint32), mesh))

    return draw


def _in_batches(
    draw: Draw, captions: Sequence[str], numbers: Sequence[int], batch: int
) -> np.ndarray:
    """All pictures; the last batch is filled up with others, which are dropped."""
    count = len(captions)
    rows = [[i % count for i in range(at, at + batch)] for at in range(0, count, batch)]
    drawn = [draw([captions[i] for i in row], [numbers[i] for i in row]) for row in rows]
    return np.concatenate([_on_host(images) for images in drawn])[:count]


def _on_host(images: Array) -> np.ndarray:
    return np.asarray(images.addressable_data(0))


def _is_there(path: Path) -> bool:
    """Whether a tar is there, as the first process sees it: all must go the same way."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(path.is_file())))
