"""What a finished stage left, as its stage.json notes it: every tree of weights and every file."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from flashjax.checkpoint import JUDGED, is_tree, kept_checksums
from flashjax.types import InputError, listed

CHECKPOINTS = "checkpoints"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is being saved
TRACES = (
    "stage.json",
    "metrics",
    "hosts",
    JUDGED,
    "live.html",
    "trace",
)  # how the names begin of what says how a stage went
# What a job that is killed leaves of what it was writing: drafts of files, folders for drafts.
DRAFT = re.compile(r".+\.\d+\.tmp|heartbeat-\d+\.tmp|(metrics|judged)\.tmp")
SCRATCH = re.compile(r"\.(?P<of>.+)\.[a-z0-9_]{8}")
CHECKED_INSIDE = ".array_record"  # shards of a cache may be terabytes; each record has a hash


def files_below(folder: Path, *, links: bool = False, without: Collection[str] = ()) -> list[Path]:
    """The files below a folder; a checkpoint that is taken away meanwhile is not among them.

    With `links` those of folders that it links are, too. What is called as in `without` is not.
    """
    found: list[Path] = []
    # `os.walk` goes on where a folder is gone, which `rglob` does not.
    for home, folders, names in os.walk(folder, followlinks=links):
        here = Path(home)
        if links and here.resolve() in {above.resolve() for above in here.parents}:  # to itself
            folders.clear()
            continue
        folders[:] = [name for name in folders if name not in without]
        found += [here / name for name in names if name not in without]
    return sorted(found)


def bytes_below(folder: Path) -> int:
    """Their sizes, of those that are still there when it is asked."""
    total = 0
    for path in files_below(folder):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def sweep(folder: Path) -> None:
    """Takes away what a job was writing when it was killed; checkpoints do so themselves."""
    for path in sorted(folder.rglob("*")):
        if CHECKPOINTS in path.relative_to(folder).parts or path.is_symlink():
            continue
        if path.is_file() and DRAFT.fullmatch(path.name):
            path.unlink()
        elif path.is_dir() and is_scratch(path):
            shutil.rmtree(path)


def is_scratch(path: Path) -> bool:
    """Whether a folder is one that `writing.replacing` made: it holds the draft alone, or less."""
    found = SCRATCH.fullmatch(path.name)
    if found is None:
        return False
    return all(child.name[:40] in (found["of"], "old") for child in path.iterdir())


def contents(folder: Path) -> dict[str, Any]:
    """By path: a digest of a tree's checksums; of a file its bytes and SHA-256.

    What says how the stage went, its checkpoints and hidden files are not part of it.
    """
    return {str(path.relative_to(folder)): _described(path) for path in _parts(folder)}


def check_contents(folder: Path, noted: Mapping[str, Any]) -> None:
    """InputError where a stage's folder does not hold what was noted when it was finished."""
    there = {name for name in noted if (folder / name).exists()}
    changed = sorted(name for name in noted if name not in there or _differs(folder, name, noted))
    if changed:
        raise InputError(
            f"{folder}: {listed(changed)} is not what the stage wrote: bring that back, or delete "
            f"{folder} to run it anew"
        )


def _differs(folder: Path, name: str, noted: Mapping[str, Any]) -> bool:
    return _described(folder / name) != noted[name]


def _parts(folder: Path) -> Iterator[Path]:
    """Trees and files below a folder, in order."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith((".", CHECKPOINTS, *TRACES)):
            yield from _below(path)


def _below(path: Path) -> Iterator[Path]:
    if path.is_file() or is_tree(path):
        yield path
        return
    for child in sorted(path.iterdir()):
        if not child.name.startswith("."):
            yield from _below(child)


def _described(path: Path) -> dict[str, Any]:
    if path.is_dir():
        sums = sorted(kept_checksums(path).items())
        return {"arrays": len(sums), "checksums": hashlib.sha256(repr(sums).encode()).hexdigest()}
    size = path.stat().st_size
    if path.suffix == CHECKED_INSIDE:
        return {"bytes": size}
    with path.open("rb") as file:
        return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
