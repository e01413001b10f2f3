"""`--fork`: a new stage that begins with a checkpoint of an old one, whatever its config was."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.parallel.hosts import is_first, meet
from flashjax.stages.contents import CHECKPOINTS, UNFINISHED
from flashjax.stages.refused import LOCK, RECORD, withdrawn
from flashjax.stages.split import folder_of
from flashjax.stages.stage import (
    FORKED,
    came_to_nothing,
    held,
    read_stage,
    steps_saved,
    write_json,
)
from flashjax.types import InputError

VERBS = ("guide", "match", "split")

log = logging.getLogger(__name__)


@contextmanager
def forked(origin: Path, config: ConfigDict, workdir: Path, verb: str) -> Iterator[None]:
    """Copies a checkpoint to where the stage `verb` of `workdir`, run in the block, goes on from.

    `origin` is a stage's folder, whose newest checkpoint is taken, or one of its checkpoints.
    InputError as `check_fork` has it. Where the stage is refused in the block, nothing of the copy
    stays.
    """
    stage, step = check_fork(origin, config, workdir, verb)
    folder = place_of(config, workdir, verb)
    begun = {"stage": verb, "status": FORKED, "seed": config.seed, "seconds": 0.0}
    record = begun | {"section": {}, "inputs": {}, "versions": {}}
    record[FORKED] = {"from": str(stage.resolve()), "step": step}
    meet("the place is free")
    with _copied(stage, step, folder, record) if is_first() else nullcontext():
        meet("the checkpoint is copied")
        log.info("%s begins with step %d of %s", verb, step, stage)
        yield


def check_fork(origin: Path, config: ConfigDict, workdir: Path, verb: str) -> tuple[Path, int]:
    """The stage's folder and the step that a fork goes on from.

    InputError where there is none, where the stage has begun, or would train no further.
    """
    if verb not in VERBS:
        raise InputError(f"--fork goes with {', '.join(VERBS)}, not with {verb}")
    stage, step = found(origin)
    if step >= config[verb].job.steps:
        raise InputError(
            f"--fork {origin}: step {step} is no earlier than the end, "
            f"{verb}.job.steps={config[verb].job.steps}: give more steps or an earlier checkpoint"
        )
    _check_free(place_of(config, workdir, verb))
    return stage, step


def place_of(config: ConfigDict, workdir: Path, verb: str) -> Path:
    """The folder of a stage; a branch that is a job of its own has one of its own."""
    return workdir / (folder_of(config.split.get("only", "")) if verb == "split" else verb)


@contextmanager
def _copied(stage: Path, step: int, folder: Path, record: dict[str, Any]) -> Iterator[None]:
    """A stage's checkpoint and the record of its fork; taken away where the fork is refused."""
    copy, before = folder / CHECKPOINTS / str(step), read_stage(folder)
    new = [path for path in (folder / LOCK, copy.parent) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)

    def has_begun() -> bool:
        return read_stage(folder) not in (before, record)

    with withdrawn(folder / RECORD, unless=has_begun):
        try:
            with held(folder):  # a job that has just begun there would go on from this step
                _check_free(folder)
                _copy(stage / CHECKPOINTS / str(step), copy)
                write_json(folder / RECORD, record)
            yield
        except InputError:
            if not has_begun():
                for path in (copy, *new):
                    _remove(path)
            raise


def found(origin: Path) -> tuple[Path, int]:
    """The stage's folder and the step that a path names."""
    if origin.parent.name == CHECKPOINTS and origin.name.isdecimal() and origin.is_dir():
        return origin.parent.parent, int(origin.name)
    steps = steps_saved(origin)
    if not steps:
        raise InputError(
            f"--fork {origin} has no checkpoints: give a stage's folder or one of its checkpoints"
        )
    return origin, max(steps)


def _check_free(folder: Path) -> None:
    if read_stage(folder) is not None and not came_to_nothing(folder):
        raise InputError(f"{folder} has begun: give another --workdir, or leave --fork out")


def _copy(source: Path, target: Path) -> None:
    """A folder whole or not at all; what is left of a copy that was killed is swept like a save."""
    draft = target.with_name(f"{target.name}{UNFINISHED}-fork")
    _remove(draft)
    try:
        shutil.copytree(source, draft)
        draft.replace(target)
    except (shutil.Error, FileNotFoundError) as error:
        several = isinstance(error, shutil.Error)
        if all(map(os.path.exists, (path for path, *_ in error.args[0]) if several else [source])):
            raise
        raise InputError(
            f"--fork {source}: the job that is at work there has taken it away: give the command "
            "again, or a step that it keeps"
        ) from error
    finally:
        _remove(draft)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
