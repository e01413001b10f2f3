"""`--fork`: a new stage that begins with a checkpoint of an old one, whatever its config was."""

import logging
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from flashjax.parallel.hosts import is_first, meet
from flashjax.stages.contents import CHECKPOINTS
from flashjax.stages.stage import FORKED, came_to_nothing, read_stage, steps_saved, write_json
from flashjax.types import InputError

VERBS = ("guide", "match", "split")

log = logging.getLogger(__name__)


def fork(origin: Path, config: ConfigDict, workdir: Path, verb: str) -> None:
    """Copies a checkpoint to where the stage `verb` of `workdir` goes on from it.

    `origin` is a stage's folder, whose newest checkpoint is taken, or one of its checkpoints.
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
    folder = workdir / verb
    if read_stage(folder) is not None and not came_to_nothing(folder):
        raise InputError(f"{folder} has begun: give another --workdir, or leave --fork out")
    meet("the place is free")
    if is_first():
        _copy(stage / CHECKPOINTS / str(step), folder / CHECKPOINTS / str(step))
        begun = {"stage": verb, "status": FORKED, "seed": config.seed, "seconds": 0.0}
        record = begun | {"section": {}, "inputs": {}, "versions": {}}
        record[FORKED] = {"from": str(stage.resolve()), "step": step}
        write_json(folder / "stage.json", record)
    meet("the checkpoint is copied")
    log.info("%s begins with step %d of %s", verb, step, stage)


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


def _copy(source: Path, target: Path) -> None:
    """A folder whole or not at all."""
    draft = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft)
    draft.replace(target)
