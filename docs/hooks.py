"""What mkdocs asks while it builds: the config reference, decisions, equations as MathML."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

KEYS, DECISIONS = "<!-- keys of a config -->", "<!-- decisions in force -->"
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
