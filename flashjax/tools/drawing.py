"""Any checkpoint, opened to draw with: what `sample`, `evaluate` and `flashjax.load` share.

Letters: n pictures, h w c latents, H W pixels.
"""

import argparse
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from flashjax.convert.adapters import open_loras, with_loras
from flashjax.convert.pipeline import ABSENT_T5_TOKENS, Pipeline
from flashjax.convert.table import AS_STORED, Placement
from flashjax.data.prompts import shortened
from flashjax.data.tokenizers import Tokenizer, check_fits, load_tokenizers
from flashjax.evaluate.room import fitting, picture_bytes
from flashjax.evaluate.sample import (
    Prompts,
    Sample,
    Sampler,
    check_seed,
    draw_seeds,
    encoded,
    make_sample,
)
from flashjax.flow.guidance import SkipLayers
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.models.mmdit import MMDiT, velocity_of
from flashjax.models.parameters import as_bits
from flashjax.parallel.mesh import make_mesh
from flashjax.sources import base_folder, home_of, in_dtype, open_pipeline
from flashjax.stages.model import PACKAGED, open_stage, packaged
from flashjax.types import InputError, Params, check_text

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
GRIDS = ("sampler", "student")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How pictures are drawn; the defaults are those of `flashjax sample`.

    Attributes:
      steps: of the solver.
      grid: noise levels, "sampler" (SD3's own) or "student" (that students are trained on).
      solver: "euler" or "dpmpp_2m".
      guidance_scale: 1 is no guidance, and half the work.
      negative_prompt: what guidance leads away from.
      skip_layers: blocks of skip-layer guidance, as in "7,8,9".
      size: "HEIGHTxWIDTH" in pixels; None is the model's own.
      seed: of the first picture; one more for each, 0 to 2^63 - 1.
      batch: pictures at a time, at most.
    """

    steps: int = 28
    grid: str = "sampler"
    solver: str = "euler"
    guidance_scale: float = 1.0
    negative_prompt: str = ""
    skip_layers: str | None = None
    size: str | None = None
    seed: int = 0
    batch: int = 8

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Drawing":
        """What the flags of a verb say."""
        return cls(
            **{field.name: getattr(options, field.name) for field in dataclasses.fields(cls)}
        )

    def check(self, count: int) -> None:
        """InputError for numbers that `count` pictures cannot be drawn with."""
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: give one or more")
        if self.grid not in GRIDS:
            raise InputError(f"--grid {self.grid}: choose of {', '.join(GRIDS)}")
        if self.batch < 1:
            raise InputError(f"--batch {self.batch}: give one or more")
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise InputError(f"--guidance_scale {self.guidance_scale}: give a number from 0 on")
        for seed in (self.seed, self.seed + count - 1):
            check_seed(seed)
        check_text(self.negative_prompt, "--negative_prompt")
        if self.skip_layers and self.guidance_scale == 1:
            raise InputError("--skip_layers adds to guidance: give a --guidance_scale above 1")


def check_negative(drawings: Sequence[Drawing]) -> None:
    """InputError for a negative prompt that acts on none of the drawings."""
    if any(d.negative_prompt for d in drawings) and all(d.guidance_scale == 1 for d in drawings):
        raise InputError("--negative_prompt acts through guidance: give a --guidance_scale above 1")


def path_of(source: str | Path) -> Path:
    """Where a source lies: a path, or a pipeline that comes with the package by its name."""
    return packaged(str(source)) if str(source) in PACKAGED else Path(source)


def open_source(
    source: str | Path,
    *,
    base: str | Path | None = None,
    lora: Sequence[str] = (),
    dtype: str | None = None,
    absent_t5: int = ABSENT_T5_TOKENS,
) -> tuple[Pipeline, Tokenizer]:
    """The model and the tokenizers of a source; a stage's folder has them in its run.

    Every device has the weights, straight from the file and as they are stored there unless a
    `dtype` is given. `lora` has "FILE:SCALE"; a T5 that is left out is `absent_t5` zero tokens.
    InputError for what is no model, or lacks what `base` does not bring.
    """
    if absent_t5 < 0:
        raise InputError(f"--absent_t5 {absent_t5}: give 0 or more")
    path, folder, loras = path_of(source), base_folder(base), open_loras(lora)
    if folder is None and (found := open_stage(path)):
        pipeline, tokenizer = found
        if loras:
            parts = with_loras(pipeline.parts, loras, place=lambda _: AS_STORED)
            pipeline = pipeline.with_parts(parts)
        return in_dtype(pipeline, computed_in(dtype)), tokenizer
    home = home_of(path, folder)
    tokenizer = load_tokenizers(home)
    place = placement(dtype)
    pipeline = open_pipeline(
        path, base=folder, place=lambda _: place, absent_t5=absent_t5, loras=loras
    )
    text = pipeline.text_config
    check_fits(tokenizer, text.vocabularies, str(home), places=text.places)
    return in_dtype(pipeline, computed_in(dtype)), tokenizer


def computed_in(dtype: str | None) -> np.dtype:
    """The dtype that networks are computed in: the one asked for, or the backend's own."""
    default = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if (dtype or default) not in DTYPES:
        raise InputError(f"--dtype {dtype}: choose of {', '.join(DTYPES)}")
    return np.dtype(DTYPES[dtype or default])


def placement(dtype: str | None) -> Placement:
    """Weights as stored, unless a dtype is asked for; never wider than they are computed in."""
    mesh = make_mesh({"data": -1})
    everywhere = NamedSharding(mesh, PartitionSpec())

    def shardings(tree: Params) -> Params:
        return jax.tree.map(lambda _: everywhere, tree)

    computed = computed_in(dtype)
    return Placement(
        dtype=computed if dtype else None,
        shardings=shardings if mesh.size > 1 else None,
        widest=computed,
    )


def sampler_of(drawing: Drawing, pipeline: Pipeline, size: tuple[int, int]) -> Sampler:
    """The grid, solver and guidance that are asked for, for latents of this size "h w"."""
    schedule, patch = pipeline.schedule, pipeline.transformer_config.patch
    tokens = (size[0] // patch) * (size[1] // patch)
    sigmas = (
        sampler_sigmas(drawing.steps, schedule, tokens)
        if drawing.grid == "sampler"
        else student_sigmas(drawing.steps, schedule.shift_of(tokens))
    )
    skip = None
    if drawing.skip_layers:
        try:
            blocks = tuple(int(block) for block in drawing.skip_layers.split(","))
        except ValueError as error:
            raise InputError(
                f"--skip_layers {drawing.skip_layers}: give block numbers, as in 7,8,9"
            ) from error
        skip = SkipLayers(blocks=blocks)
    return Sampler(tuple(sigmas.tolist()), drawing.guidance_scale, solver=drawing.solver, skip=skip)


def check_drawable(pipeline: Pipeline, drawings: Sequence[Drawing]) -> None:
    """InputError for what a model cannot be drawn with, before the first picture is."""
    model = MMDiT(pipeline.transformer_config)
    for drawing in drawings:
        sampler = sampler_of(drawing, pipeline, latent_size(drawing.size, pipeline))
        velocity_of(model, skip=sampler.skip.blocks if sampler.skip else ())


def latent_size(size: str | None, pipeline: Pipeline) -> tuple[int, int]:
    """Height and width of the latents of a picture of HxW pixels."""
    if size is None:
        side = pipeline.sample_size * pipeline.vae_config.factor
        size = f"{side}x{side}"
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


def negative_of(pipeline: Pipeline, tokenizer: Tokenizer, drawings: Sequence[Drawing]) -> Prompts:
    """What guidance leads away from in all of these drawings, encoded where one is guided."""
    tokens = tokenizer([shortened(drawings[0].negative_prompt)])
    if all(drawing.guidance_scale == 1 for drawing in drawings):
        return tokens
    return encoded(pipeline.text_config, as_bits(pipeline.text), tokens)


def draw(
    pipeline: Pipeline,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    drawing: Drawing,
    negative: Prompts | None = None,
) -> Iterator[np.ndarray]:
    """The pictures uint8 "H W 3" of all prompts, as they are done.

    Picture i has the noise of seed + i, whatever is drawn with it. `negative` is what `negative_of`
    has made for several drawings. InputError for a model whose numbers are none.
    """
    if negative is None:
        negative = negative_of(pipeline, tokenizer, [drawing])
    size = latent_size(drawing.size, pipeline)
    sampler = sampler_of(drawing, pipeline, size)
    texts = [shortened(prompt) for prompt in prompts]
    weights = {"transformer": pipeline.transformer, "vae": pipeline.vae, "text": pipeline.text}
    sizes = dataclasses.replace(pipeline, transformer=None, vae=None, text=None)
    tokens = tokenizer(texts)
    of_one = picture_bytes(sizes, tokens, size, guided=drawing.guidance_scale != 1)
    return draw_seeds(
        program(sizes, sampler),
        weights,
        tokens,
        negative,
        seed=drawing.seed,
        shape=(*size, pipeline.transformer_config.channels),
        chunk=fitting(min(drawing.batch, len(texts)), jax.device_count(), of_one),
    )


@functools.cache
def program(pipeline: Pipeline, sampler: Sampler) -> Sample:
    """The program for a model's sizes, without its weights: sources of equal sizes share it."""
    return make_sample(pipeline, sampler)
