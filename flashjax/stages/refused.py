"""A command that is refused leaves a workdir as it was: records, the run's config, and folders."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flashjax.stages.contents import files_below
from flashjax.types import InputError

RECORD, LOCK = "stage.json", ".lock"
STAGE = "hosts/stage"  # where the processes of a stage note what they are at


@contextlib.contextmanager
def withdrawn(path: Path, *, unless: Callable[[], bool]) -> Iterator[None]:
    """Gives a file the bytes from before, or none, where an InputError ends the block.

    `unless` says whether something has come of it meanwhile: then the file stays.
    """
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    except InputError:
        if not unless():
            if before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)
        raise


@contextlib.contextmanager
def withdrawn_record(folder: Path) -> Iterator[None]:
    """The same of a stage's record, unless the stage has written anything else."""

    def others() -> list[Path]:
        signs = folder / STAGE
        left_out = (RECORD, LOCK)
        files = files_below(folder)
        return [p for p in files if p.name not in left_out and not p.is_relative_to(signs)]

    began, new = time.time(), not (folder / RECORD).exists() and not others()

    def is_late(path: Path) -> bool:
        try:
            return path.lstat().st_mtime >= began  # of a link its own: what it names may be away
        except FileNotFoundError:  # taken away meanwhile
            return False

    def worked() -> bool:
        return any(new or is_late(path) for path in others())

    try:
        with withdrawn(folder / RECORD, unless=worked):
            yield
    except InputError:
        if new and not worked():
            (folder / LOCK).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def withdrawn_config(workdir: Path) -> Iterator[None]:
    """The same of a run's config, unless one of its stages has another record than before."""

    def records() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in workdir.glob(f"*/{RECORD}")}

    before = records()
    with withdrawn(workdir / "config.json", unless=lambda: records() != before):
        yield


@contextlib.contextmanager
def withdrawn_folders(workdir: Path) -> Iterator[None]:
    """Takes away folders that were not there, and hold nothing, where an InputError ends it."""
    path = workdir.absolute()
    absent = [folder for folder in (path, *path.parents) if not folder.exists()]
    there = set(path.glob("*"))
    try:
        yield
    except InputError:
        inside = [folder for folder in path.glob("*") if folder.is_dir() and folder not in there]
        for folder in (*inside, *absent):  # the innermost are first
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
        raise
