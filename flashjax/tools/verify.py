"""`verify`: every byte that a workdir keeps, against what its stages noted when they wrote it."""

import argparse
import functools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flashjax.checkpoint import check_checkpoint, is_tree, load_params
from flashjax.data.cache import check_shard
from flashjax.stages.contents import CHECKED_INSIDE, CHECKPOINTS, check_contents
from flashjax.stages.stage import read_stage, stage_folders
from flashjax.types import InputError

GOING_SECONDS = 1.0  # for a checkpoint that is being taken away

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Says of every stage that it is whole. InputError with a line for each thing that is not."""
    found: list[str] = []
    for folder in stage_folders(Path(options.workdir)):
        wrong = problems(folder)
        found += wrong
        log.info("%s %s", folder, "is NOT what was written" if wrong else "is whole")
    if found:
        raise InputError(*found)


def problems(folder: Path) -> list[str]:
    """What is wrong with a stage's folder, a line each."""
    return [line for check in _checks(folder) for line in _told(check)]


def _checks(folder: Path) -> Iterator[Callable[[], Any]]:
    record = read_stage(folder) or {}
    noted = record.get("contents", {})
    yield functools.partial(check_contents, folder, noted)
    for path in (folder / name for name in noted):
        if path.exists() and is_tree(path):
            yield functools.partial(load_params, path)
        elif path.exists() and path.suffix == CHECKED_INSIDE:
            yield functools.partial(check_shard, path)
    for path in sorted((folder / CHECKPOINTS).glob("*")):
        if path.name.isdecimal():
            yield functools.partial(_check_step, path)


def _check_step(path: Path) -> None:
    """`check_checkpoint`, but of one that a job at work takes away meanwhile."""
    try:
        check_checkpoint(path)
    except InputError:
        time.sleep(GOING_SECONDS)
        if path.is_dir():
            raise


def _told(check: Callable[[], Any]) -> tuple[str, ...]:
    """The lines of a check that fails."""
    try:
        check()
    except InputError as error:
        return error.args
    return ()
