"""What mkdocs asks while it builds: the config reference, decisions, equations as MathML."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

KEYS, DECISIONS = "<!-- keys of a config -->", "<!-- decisions in force -->"
ARMS = re.compile(r"<!-- arms with (\d+) steps of (\w+) -->")  # a table of docs/figures
FIGURES = Path(__file__).parent / "figures"
NOTES = Path(__file__).parents[1] / "BUILD_NOTES.md"
_EQUATION = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Pages that the navigation does not name stand at its end."""
    pages = sorted(page.name for page in Path(config["docs_dir"]).glob("*.md"))
    if more := [page for page in pages if page not in str(config["nav"])]:
        config["nav"].append({"More": more})
    return config


def on_page_markdown(markdown: str, **known: object) -> str:
    """The page with what is generated put in its place."""
    if KEYS in markdown:
        markdown = markdown.replace(KEYS, "\n".join(tables()))
    markdown = markdown.replace(DECISIONS, decisions(NOTES.read_text()))
    markdown = ARMS.sub(lambda found: "\n".join(arms(int(found[1]), found[2])), markdown)
    return _EQUATION.sub(lambda found: convert(found[1], display="block"), markdown)


def decisions(notes: str) -> str:
    """The decisions in force, a section for each room."""
    body = notes.partition("## Decisions in force\n")[2].partition("\n# Log")[0]
    return re.sub(r"^\*\*(.+)\*\*$", r"## \1\n", body, flags=re.MULTILINE)


def tables() -> Iterator[str]:
    """A table of each section: the keys that `flashjax explain` knows, in its words."""
    from flashjax.tools.explain import keys  # it reads the package: not for other pages

    section = ""
    for key in keys():
        first = key.path.partition(".")[0]
        if first != section:
            section = first
            yield from (
                "",
                f"## {first}",
                "",
                "| key | values | default | meaning |",
                "|---|---|---|---|",
            )
        default = "must be given" if key.default is None else f"`{key.default}`"
        name = key.path.partition(".")[2] or key.path
        cells = (f"`{name}`", key.kind, default, key.meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def arms(steps: int, table: str) -> Iterator[str]:
    """The arms of a student of so many steps in a table that `flashjax ablate` wrote."""
    told = json.loads((FIGURES / f"{table}.json").read_text())
    figures = [f for f in told["teacher"]["figures"] if f["error"] or not f["heading"]]
    names = [figure["name"] for figure in figures]
    decimals = {figure["name"]: figure["decimals"] for figure in figures}
    yield "| arm | seeds | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 2) + "|"

    def row(name: str, seeds: str, cells: dict[str, tuple[float, float | None]]) -> str:
        texts = []
        for figure in names:
            mean, half = cells.get(figure, (None, None))
            text = "" if mean is None else f"{mean:.{decimals[figure]}f}"
            texts.append(text + ("" if half is None else f" ± {half:.{decimals[figure]}f}"))
        return f"| {name} | {seeds} | " + " | ".join(texts) + " |"

    for name, found in (("real pictures", told["real"]), ("teacher", told["teacher"])):
        yield row(
            name, "", {figure["name"]: (figure["value"], None) for figure in found["figures"]}
        )
    for found in told["rows"]:
        if found["steps"] != steps:
            continue
        name = found["arm"] or "guided alone"
        name += ", no anchor" if found["trajectory"] == 0 and name != "no_trajectory" else ""
        name += f", then {found['split']}" if found["split"] else ""
        cells = {key: (value["mean"], value["half"]) for key, value in found["values"].items()}
        number = max((value["seeds"] for value in found["values"].values()), default=0)
        broken = f", {found['broken']} broke" if found["broken"] else ""
        yield row(name, f"{number}{broken}" if found["arm"] else "", cells)
