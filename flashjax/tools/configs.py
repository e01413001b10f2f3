"""`configs`: the packaged recipes, a line for each; `--copy NAME` to change one."""

import argparse
import ast
import re
import shutil
from pathlib import Path

from flashjax import config
from flashjax.types import InputError

SIBLING = re.compile(r"""with_name\(["'](\w+)\.py["']\)""")  # a recipe that another one changes


def run(options: argparse.Namespace) -> None:
    """Lists the recipes, or copies one. InputError for one that is not there, or is no more."""
    if not options.copy:
        width = max(map(len, config.recipes()))
        for name, path in config.recipes().items():
            print(f"{name:{width}}  {told(path)}")
        return
    if len(options.copy) > 2:
        raise InputError(f"--copy takes a name and a folder, not {' '.join(options.copy)}")
    name, folder = (*options.copy, ".")[:2]
    for path in copy(name, Path(folder)):
        print(path)


def told(path: Path) -> str:
    """What a recipe says of itself in its first line."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def copy(name: str, folder: Path) -> list[Path]:
    """Copies a recipe and those that it reads; returns the copies. Nothing is written over."""
    sources = family(name)
    copies = [folder / path.name for path in sources]
    for source, target in zip(sources, copies, strict=True):
        if target.exists() and target.read_bytes() != source.read_bytes():
            raise InputError(f"{target} is there already, and is not ours: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in zip(sources, copies, strict=True):
        if not target.exists():
            shutil.copyfile(source, target)
    return copies


def family(name: str) -> list[Path]:
    """A recipe, and those that it reads, each once. InputError for one that is not packaged."""
    packaged = config.recipes()
    if name not in packaged:
        raise InputError(f"--copy {name} is no packaged recipe: choose of {', '.join(packaged)}")
    found = [packaged[name]]
    for path in found:  # grows as it goes
        named = (packaged[sibling] for sibling in SIBLING.findall(path.read_text()))
        found += [sibling for sibling in named if sibling not in found]
    return found
