"""The page of an ablation: its table, curves and pictures in one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashjax.evaluate.report import environment, panels, write_page
from flashjax.tools.ablate.grid import AblateConfig
from flashjax.tools.ablate.table import Brought, Row, Value, curves_of, rows_of

SHOWN_METRICS = ("student/score_gap", "student/grad_norm", "fake/loss", "student/trajectory_loss")
TEMPLATE = "ablation.html.j2"


def write(
    path: Path,
    grid: AblateConfig,
    workdir: Path,
    told: dict[str, Any],
    title: str,
    brought: Brought,
) -> None:
    """Writes the page of what is done so far."""
    rows = rows_of(grid, workdir, brought)
    names = [figure["name"] for figure in told["teacher"]["figures"]]
    decimals = {figure["name"]: figure["decimals"] for figure in told["teacher"]["figures"]}
    runs = {steps: curves_of(grid, workdir, steps, SHOWN_METRICS) for steps in grid.steps}
    page = (
        environment()
        .get_template(TEMPLATE)
        .render(
            title=title,
            told=told,
            names=names,
            value=lambda value, name: in_words(value, decimals[name]),
            groups=[(steps, [row for row in rows if row.steps == steps]) for steps in grid.steps],
            row_name=row_name,
            stages=[(steps, found, panels(found)) for steps, found in runs.items() if found],
            best=best_of(rows, told),
        )
    )
    write_page(path, page)


def row_name(row: Row) -> str:
    """An arm in words."""
    if not row.arm:
        return "guided alone"
    return f"{row.arm}, then {row.split}" if row.split else row.arm


def in_words(value: Value | float | None, decimals: int) -> str:
    """A value with half of its interval."""
    if value is None:
        return ""
    if not isinstance(value, Value):
        return f"{value:.{decimals}f}"
    half = "" if value.half is None else f" ± {value.half:.{decimals}f}"
    return f"{value.mean:.{decimals}f}{half}"


def best_of(rows: Sequence[Row], told: dict[str, Any]) -> dict[tuple[int, str], float]:
    """The best mean of every figure by number of steps."""
    better = {figure["name"]: figure["better"] for figure in told["teacher"]["figures"]}
    found: dict[tuple[int, str], float] = {}
    for row in rows:
        for name, value in row.values.items():
            if name not in better:  # of a judge that the teacher was not shown to
                continue
            pick = max if better[name] == "more" else min
            key = (row.steps, name)
            found[key] = pick(found.get(key, value.mean), value.mean)
    return found
