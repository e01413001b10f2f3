"""`sample`: prompts to PNG files with any checkpoint."""

import argparse
import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flashjax.convert.adapters import open_loras, with_loras
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.table import AS_STORED, Placement
from flashjax.data.prompts import read_prompts
from flashjax.data.tokenizers import Tokenizer, load_tokenizers
from flashjax.evaluate.grids import grid, save_png
from flashjax.evaluate.sample import SOLVERS, Sampler, draw, draw_noise, make_sample
from flashjax.flow.guidance import SkipLayers
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.sources import LORA_FLAG, base_folder, home_of, in_dtype, kind_of, open_pipeline
from flashjax.stages.model import PACKAGED, open_model, packaged, student_of
from flashjax.types import InputError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
COLUMNS = 8  # of the grid of all pictures

log = logging.getLogger(__name__)


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    prompts = verb.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    prompts.add_argument("--prompts", metavar="FILE", help="one prompt a line")
    verb.add_argument(
        "--source",
        default="nano",
        metavar="PATH",
        help="pipeline or transformer folder, single file, GGUF, a stage's folder, or nano",
    )
    verb.add_argument("--base", metavar="DIR", help="a pipeline with whatever the source lacks")
    verb.add_argument("--lora", **LORA_FLAG)
    verb.add_argument("--out", required=True, metavar="DIR", help="where pictures go")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--steps", type=int, default=28)
    verb.add_argument("--grid", choices=("sampler", "student"), default="sampler")
    verb.add_argument("--solver", choices=tuple(SOLVERS), default="euler")
    verb.add_argument("--guidance_scale", type=float, default=1.0, metavar="X")
    verb.add_argument("--skip_layers", metavar="7,8,9", help="blocks of skip-layer guidance")
    verb.add_argument("--size", metavar="HxW", help="in pixels; the model's own by default")
    verb.add_argument("--batch", type=int, default=8, help="pictures at a time")
    verb.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    verb.add_argument(
        "--absent_t5", type=int, default=256, metavar="N", help="zero tokens where T5 is left out"
    )


def run(options: argparse.Namespace) -> None:
    """Draws every prompt with the same seed and prints the path of the grid of all pictures."""
    prompts = read_prompts(options.prompts) if options.prompts else options.prompt
    pipeline, tokenizer = open_source(options)
    sampler = sampler_of(options, pipeline)
    size = latent_size(options.size, pipeline)
    shape = (*size, pipeline.transformer_config.channels)
    drawn = draw(
        make_sample(pipeline, sampler),
        {"transformer": pipeline.transformer, "vae": pipeline.vae, "text": pipeline.text},
        tokenizer(prompts),
        tokenizer([""]),
        draw_noise(options.seed, len(prompts), shape),
        chunk=min(options.batch, len(prompts)),
    )
    log.info("%.3f s per picture, without compilation", drawn.seconds_per_image)
    print(save(Path(options.out), drawn.images, prompts, settings_of(options)))


def open_source(options: argparse.Namespace) -> tuple[Pipeline, Tokenizer]:
    """The model and the tokenizers that the flags name; a stage's folder has them in its run."""
    source = packaged(options.source) if options.source in PACKAGED else Path(options.source)
    base, dtype = base_folder(options.base), DTYPES[options.dtype]
    placement, loras = Placement(np.dtype(dtype)), open_loras(options.lora)
    if base is None and kind_of(source) == "orbax" and (source.parent / "import").is_dir():
        pipeline, tokenizer = open_model(source.parent)
        params = student_of(source.parent, source.name)
        student = params.get("transformer", params)
        pipeline = dataclasses.replace(pipeline, transformer=student)
        if loras:
            parts = with_loras(pipeline.parts, loras, place=lambda _: AS_STORED)
            pipeline = pipeline.with_parts(parts)
        return in_dtype(pipeline, dtype), tokenizer
    pipeline = open_pipeline(
        source, base=base, place=lambda _: placement, absent_t5=options.absent_t5, loras=loras
    )
    return in_dtype(pipeline, dtype), load_tokenizers(home_of(source, base))


def sampler_of(options: argparse.Namespace, pipeline: Pipeline) -> Sampler:
    """The grid, solver and guidance that the flags ask for."""
    if options.steps < 1:
        raise InputError(f"--steps {options.steps}: give one or more")
    make_sigmas = sampler_sigmas if options.grid == "sampler" else student_sigmas
    skip = None
    if options.skip_layers:
        try:
            blocks = tuple(int(block) for block in options.skip_layers.split(","))
        except ValueError as error:
            raise InputError(
                f"--skip_layers {options.skip_layers}: give block numbers, as in 7,8,9"
            ) from error
        skip = SkipLayers(blocks=blocks)
    return Sampler(
        tuple(make_sigmas(options.steps, pipeline.shift).tolist()),
        options.guidance_scale,
        solver=options.solver,
        skip=skip,
    )


def latent_size(size: str | None, pipeline: Pipeline) -> tuple[int, int]:
    """Height and width of the latents of a picture of HxW pixels."""
    if size is None:
        return pipeline.sample_size, pipeline.sample_size
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    unit = pipeline.vae_config.factor * pipeline.transformer_config.patch
    largest = unit * pipeline.transformer_config.position_size
    sides = [int(side) for side in found.groups()] if found else []
    if not sides or any(side % unit or not 0 < side <= largest for side in sides):
        raise InputError(
            f"--size {size}: give HEIGHTxWIDTH in pixels, multiples of {unit} up to {largest}"
        )
    height, width = (side // pipeline.vae_config.factor for side in sides)
    return height, width


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """All that makes the pictures what they are, but for the prompts."""
    names = (
        "source",
        "base",
        "lora",
        "seed",
        "steps",
        "grid",
        "solver",
        "guidance_scale",
        "skip_layers",
    )
    return {name: getattr(options, name) for name in (*names, "size", "dtype", "absent_t5")}


def save(out: Path, images: np.ndarray, prompts: list[str], settings: dict[str, Any]) -> Path:
    """Writes a PNG for each picture and one of all, the settings inside. Returns the latter."""
    text = {"settings": json.dumps(settings | {"jax": jax.__version__})}
    for index, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        chunks = {"prompt": prompt, "seed": str(settings["seed"]), "index": str(index)}
        save_png(out / f"{index:04}.png", image, text=chunks | text)
    columns = min(COLUMNS, len(images))
    blank = np.full((-len(images) % columns, *images.shape[1:]), 255, np.uint8)
    cells = np.concatenate([images, blank]).reshape(-1, columns, *images.shape[1:])
    every = {"prompts": json.dumps(prompts), "seed": str(settings["seed"])}
    save_png(out / "grid.png", grid(cells), text=every | text)
    return out / "grid.png"
