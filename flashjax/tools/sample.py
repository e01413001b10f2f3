"""`sample`: prompts to PNG files with any checkpoint."""

import argparse
from pathlib import Path

from flashjax.convert.pipeline import ABSENT_T5_TOKENS
from flashjax.data.prompts import read_prompts, shortened
from flashjax.evaluate.sample import SOLVERS
from flashjax.sources import LORA_FLAG
from flashjax.stages.model import PACKAGED
from flashjax.tools import sheets
from flashjax.tools.axes import AXES, cells, parse_axes, sources_of
from flashjax.tools.drawing import (
    DTYPES,
    GRIDS,
    Drawing,
    check_negative,
    draw,
    negative_of,
    open_source,
)


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
    verb.add_argument("--steps", type=int, default=Drawing.steps)
    verb.add_argument("--grid", choices=GRIDS, default=Drawing.grid)
    verb.add_argument("--solver", choices=tuple(SOLVERS), default=Drawing.solver)
    verb.add_argument("--guidance_scale", type=float, default=Drawing.guidance_scale, metavar="X")
    verb.add_argument("--skip_layers", metavar="7,8,9", help="blocks of skip-layer guidance")
    verb.add_argument("--size", metavar="HxW", help="height x width, pixels; the model's own")
    verb.add_argument("--batch", type=int, default=Drawing.batch, help="pictures at a time")
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
        "--absent_t5",
        type=int,
        default=ABSENT_T5_TOKENS,
        metavar="N",
        help="zero tokens where T5 is left out",
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
    drawings = [Drawing.of(cell) for cell in sheet.cells]
    for drawing in drawings:
        drawing.check(len(prompts))
    check_negative(drawings)
    sheet.check(force=options.force)
    for label, source in sheet.sources.items():  # weights of one go before the next one's come
        draw_source(options, sheet, label, source, drawings)
    print(sheet.finish())


def draw_source(
    options: argparse.Namespace,
    sheet: sheets.Sheet,
    label: str,
    source: str,
    drawings: list[Drawing],
) -> None:
    """All cells of one source."""
    pipeline, tokenizer = open_source(
        source,
        base=options.base,
        lora=options.lora,
        dtype=options.dtype,
        absent_t5=options.absent_t5,
    )
    negative = negative_of(pipeline, tokenizer, drawings)
    for number, drawing in enumerate(drawings):
        pictures = draw(pipeline, tokenizer, sheet.prompts, drawing, negative)
        sheet.keep(label, number, pictures)
