"""`sample`: prompts to PNG files with any checkpoint."""

import argparse
import dataclasses
import logging
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from flashjax.convert.adapters import open_loras, with_loras
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.table import AS_STORED, Placement
from flashjax.data.prompts import read_prompts, shortened
from flashjax.data.tokenizers import Tokenizer, check_fits, load_tokenizers
from flashjax.evaluate.sample import SOLVERS, Prompts, Sampler, check_seed, encoded
from flashjax.flow.guidance import SkipLayers
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.parallel.mesh import make_mesh
from flashjax.sources import LORA_FLAG, base_folder, home_of, in_dtype, kind_of, open_pipeline
from flashjax.stages.model import PACKAGED, open_model, packaged, student_of
from flashjax.tools import sheets
from flashjax.tools.axes import AXES, cells, parse_axes, sources_of
from flashjax.types import InputError, Params

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
GRIDS = ("sampler", "student")

log = logging.getLogger(__name__)


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    prompts = verb.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    prompts.add_argument("--prompts", metavar="FILE", help="one prompt a line")
    verb.add_argument("--negative_prompt", default="", metavar="TEXT", help="acts with guidance")
    verb.add_argument(
        "--source",
        default="nano",
        metavar="PATH[,PATH]",
        help="pipeline or transformer folder, single file, GGUF, a stage's folder, or nano",
    )
    verb.add_argument("--base", metavar="DIR", help="a pipeline with whatever the source lacks")
    verb.add_argument("--lora", **LORA_FLAG)
    verb.add_argument("--out", required=True, metavar="PATH", help="a folder, or the file X.png")
    verb.add_argument("--force", action="store_true", help="write over files of others")
    verb.add_argument("--seed", type=int, default=0, help="of the first picture; one more for each")
    verb.add_argument("--steps", type=int, default=28)
    verb.add_argument("--grid", choices=GRIDS, default="sampler")
    verb.add_argument("--solver", choices=tuple(SOLVERS), default="euler")
    verb.add_argument("--guidance_scale", type=float, default=1.0, metavar="X")
    verb.add_argument("--skip_layers", metavar="7,8,9", help="blocks of skip-layer guidance")
    verb.add_argument("--size", metavar="HxW", help="height x width, pixels; the model's own")
    verb.add_argument("--batch", type=int, default=8, help="pictures at a time, at most")
    verb.add_argument(
        "--xy",
        nargs="+",
        metavar="NAME=A,B",
        help=f"a table: columns and rows of {', '.join(AXES)}; of every source",
    )
    verb.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        help="of weights and computing; weights are kept as stored by default, and computed with "
        "in float32 on CPUs, in bfloat16 elsewhere",
    )
    verb.add_argument(
        "--absent_t5", type=int, default=256, metavar="N", help="zero tokens where T5 is left out"
    )


def run(options: argparse.Namespace) -> None:
    """Draws every prompt, and prints the path of the picture or of all of them side by side."""
    prompts = read_prompts(options.prompts) if options.prompts else options.prompt
    columns, rows = parse_axes(options.xy or [], {"grid": GRIDS, "solver": tuple(SOLVERS)})
    sheet = sheets.Sheet(
        out=Path(options.out),
        prompts=[shortened(prompt) for prompt in prompts],
        sources=sources_of(options.source, tuple(PACKAGED)),
        columns=columns,
        rows=rows,
        cells=cells(options, columns, rows),
    )
    for cell in sheet.cells:
        check_flags(cell, len(prompts))
    if options.negative_prompt and all(cell.guidance_scale == 1 for cell in sheet.cells):
        raise InputError("--negative_prompt acts through guidance: give a --guidance_scale above 1")
    sheet.check(force=options.force)
    for label, source in sheet.sources.items():
        draw_source(options, sheet, label, source)
    print(sheet.finish())


def draw_source(options: argparse.Namespace, sheet: sheets.Sheet, label: str, source: str) -> None:
    """All cells of one source; its weights go before the next one's come."""
    pipeline, tokenizer = open_source(options, source)
    size = latent_size(options.size, pipeline)
    tokens = tokenizer(sheet.prompts)
    empty: Prompts = tokenizer([shortened(options.negative_prompt)])
    if any(cell.guidance_scale != 1 for cell in sheet.cells):
        empty = encoded(pipeline.text_config, pipeline.text, empty)
    for number, cell in enumerate(sheet.cells):
        sheet.draw(
            label, number, pipeline, sampler_of(cell, pipeline, size), tokens, empty, size=size
        )


def check_flags(options: argparse.Namespace, count: int) -> None:
    """InputError for numbers that no picture can be drawn with."""
    if options.steps < 1:
        raise InputError(f"--steps {options.steps}: give one or more")
    if options.batch < 1:
        raise InputError(f"--batch {options.batch}: give one or more")
    if options.absent_t5 < 0:
        raise InputError(f"--absent_t5 {options.absent_t5}: give 0 or more")
    if not (math.isfinite(options.guidance_scale) and options.guidance_scale >= 0):
        raise InputError(f"--guidance_scale {options.guidance_scale}: give a number from 0 on")
    for seed in (options.seed, options.seed + count - 1):
        check_seed(seed)


def open_source(options: argparse.Namespace, name: str) -> tuple[Pipeline, Tokenizer]:
    """The model and the tokenizers of a source; a stage's folder has them in its run.

    Every device has the weights, straight from the file and as they are stored there.
    """
    source = packaged(name) if name in PACKAGED else Path(name)
    base, loras = base_folder(options.base), open_loras(options.lora)
    if base is None and kind_of(source) == "orbax" and (source.parent / "import").is_dir():
        pipeline, tokenizer = open_model(source.parent)
        params = student_of(source.parent, source.name)
        student = params.get("transformer", params)
        pipeline = dataclasses.replace(pipeline, transformer=student)
        if loras:
            parts = with_loras(pipeline.parts, loras, place=lambda _: AS_STORED)
            pipeline = pipeline.with_parts(parts)
        return in_dtype(pipeline, computed_in(options)), tokenizer
    home = home_of(source, base)
    tokenizer = load_tokenizers(home)
    place = placement(options)
    known = {"absent_t5": options.absent_t5, "loras": loras}
    pipeline = open_pipeline(source, base=base, place=lambda _: place, **known)
    check_fits(tokenizer, pipeline.text_config.vocabularies, str(home))
    return in_dtype(pipeline, computed_in(options)), tokenizer


def computed_in(options: argparse.Namespace) -> np.dtype:
    """The dtype that networks are computed in."""
    default = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return np.dtype(DTYPES[options.dtype or default])


def placement(options: argparse.Namespace) -> Placement:
    """Weights as stored, unless a dtype is asked for; never wider than they are computed in."""
    mesh = make_mesh({"data": -1})
    everywhere = NamedSharding(mesh, PartitionSpec())

    def shardings(tree: Params) -> Params:
        return jax.tree.map(lambda _: everywhere, tree)

    dtype = computed_in(options)
    return Placement(
        dtype=dtype if options.dtype else None,
        shardings=shardings if mesh.size > 1 else None,
        widest=dtype,
    )


def sampler_of(options: argparse.Namespace, pipeline: Pipeline, size: tuple[int, int]) -> Sampler:
    """The grid, solver and guidance that the flags ask for, for latents of this size."""
    schedule, patch = pipeline.schedule, pipeline.transformer_config.patch
    tokens = (size[0] // patch) * (size[1] // patch)
    sigmas = (
        sampler_sigmas(options.steps, schedule, tokens)
        if options.grid == "sampler"
        else student_sigmas(options.steps, schedule.shift_of(tokens))
    )
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
        tuple(sigmas.tolist()),
        options.guidance_scale,
        solver=options.solver,
        skip=skip,
    )


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
