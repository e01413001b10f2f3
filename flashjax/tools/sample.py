"""`sample`: prompts to PNG files with any checkpoint."""

import argparse
from pathlib import Path

from flashjax.data.prompts import read_prompts, shortened
from flashjax.evaluate.sample import SOLVERS
from flashjax.stages.model import PACKAGED
from flashjax.tools import sheets
from flashjax.tools.axes import cells, parse_axes, sources_of
from flashjax.tools.drawing import (
    GRIDS,
    Drawing,
    check_drawable,
    check_negative,
    draw,
    negative_of,
    open_source,
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
    check_drawable(pipeline, drawings)
    negative = negative_of(pipeline, tokenizer, drawings)
    for number, drawing in enumerate(drawings):
        pictures = draw(pipeline, tokenizer, sheet.prompts, drawing, negative)
        sheet.keep(label, number, pictures)
