"""What mkdocs asks while it builds: the config reference, and equations as MathML."""

import re
from collections.abc import Iterator

from latex2mathml.converter import convert

KEYS = "<!-- keys of a config -->"
_EQUATION = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **known: object) -> str:
    """The page with what is generated put in its place."""
    if KEYS in markdown:
        markdown = markdown.replace(KEYS, "\n".join(tables()))
    return _EQUATION.sub(lambda found: convert(found[1], display="block"), markdown)


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
