"""State to disk and back with Orbax: asynchronous, atomic, onto any mesh.

`Checkpoints` holds the running state of a stage and the position of its data; `save_params` and
`load_params` hold the plain parameter tree that a stage hands on. Both keep a checksum of every
array and compare it with what is read, on whatever mesh.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint.checkpoint_managers import (
    PolicyCheckpointInfo,
    PreservationContext,
    PreservationPolicy,
)

from flashjax import trees
from flashjax.checksums import check_sums, checksums
from flashjax.types import InputError, Params

CHECKSUMS, JUDGED = "checksums", "judged.json"
PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
WAITS = (1.0, 4.0, 16.0)  # seconds before a disk is asked again
Result = TypeVar("Result")

log = logging.getLogger(__name__)

# What Orbax raises for files that are absent, cut short or not its own.
_BROKEN = (ValueError, KeyError, OSError, json.JSONDecodeError)


def patiently(read: Callable[..., Result]) -> Callable[..., Result]:
    """`read`, again after a while where a disk that is far away is not there for a moment."""

    @functools.wraps(read)
    def reading(*arguments: Any, **named: Any) -> Result:
        for wait in WAITS:
            try:
                return read(*arguments, **named)
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                log.warning("%s; again in %g s", error, wait)
                time.sleep(wait)
        return read(*arguments, **named)

    return reading


@dataclasses.dataclass
class Kept(PreservationPolicy):
    """Which steps stay: the `newest`, those of every `milestone` steps, and the `best` judged."""

    newest: int
    milestone: int = 0
    best: int = 0
    merits: dict[int, float] = dataclasses.field(default_factory=dict)  # by step: more is better

    def stay(self, steps: Collection[int]) -> set[int]:
        """Those of some steps that stay; of equal merit the later."""
        judged = sorted((self.merits[step], step) for step in steps if step in self.merits)
        milestones = {step for step in steps if self.milestone and step % self.milestone == 0}
        best = {step for _, step in judged[len(judged) - min(self.best, len(judged)) :]}
        return {*sorted(steps)[-self.newest :], *milestones, *best}

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        """Orbax' question, of each of its checkpoints."""
        stay = self.stay([found.step for found in checkpoints])
        return [found.step in stay for found in checkpoints]


class Checkpoints:
    """The last `keep` checkpoints of a folder, and for good those of every `milestone` steps.

    The `best` of those that were judged stay, too. Unfinished saves are invisible and swept away,
    but where they are only read: they may be those of a job that is at work.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        keep: int = 2,
        milestone: int = 0,
        best: int = 0,
        read_only: bool = False,
    ) -> None:
        _quieten()
        if not read_only:
            check_place(folder)
        self._folder = Path(folder).absolute()
        self._judged = self._folder.with_name(JUDGED)
        self._kept = Kept(keep, milestone, best, _merits(self._judged) if best else {})
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        # Without its handlers a fresh manager cannot tell the shapes that a checkpoint holds.
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
            CHECKSUMS: ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

    def save(
        self, step: int, state: Any, data_state: dict[str, Any], *, wait: bool = False
    ) -> None:
        """Write the state and the (JSON) position of the data in the background, or now if `wait`.

        A step that is already there is not written again.
        """
        with _writing(self._folder, state):
            if step not in self._manager.all_steps():
                items = {
                    "state": ocp.args.StandardSave(state),
                    "data": ocp.args.JsonSave(data_state),
                    CHECKSUMS: ocp.args.JsonSave(checksums(state)),
                }
                self._manager.save(step, args=ocp.args.Composite(**items), force=True)
            if wait:
                self._manager.wait_until_finished()

    def judge(self, step: int, merit: float) -> None:
        """Notes how good a step is that is saved now: more is better. All processes say the same.

        The notes lie beside the folder, for those who ask which checkpoint to take.
        """
        self._kept.merits[step] = merit if math.isfinite(merit) else -math.inf
        if jax.process_index() == 0:
            draft = self._judged.with_suffix(".tmp")
            draft.write_text(json.dumps({str(s): m for s, m in sorted(self._kept.merits.items())}))
            draft.replace(self._judged)

    def latest_step(self) -> int | None:
        """The newest finished step, or None."""
        return self._manager.latest_step()

    @patiently
    def restore(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        """The state of `step`, laid out as `abstract` says (ShapeDtypeStructs with shardings).

        The mesh may differ from the one that saved. InputError if the files are broken, an array is
        not what was saved, or the shapes are not those of `abstract`.
        """
        items = {
            "state": ocp.args.StandardRestore(abstract),
            "data": ocp.args.JsonRestore(),
            CHECKSUMS: ocp.args.JsonRestore(),
        }
        folder, before = self._folder / str(step), self._before(step)
        onward = f"goes on from step {before}" if before else "begins anew"
        with _reading(folder, advice=f"move it away, and the stage {onward}"):
            saved = _tree(self._manager.item_metadata(step)["state"])
            trees.check_same(abstract, saved, where=str(folder))
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            check_sums(restored["state"], restored[CHECKSUMS])
        return restored["state"], restored["data"]

    def _before(self, step: int) -> int | None:
        return max((other for other in self._manager.all_steps() if other < step), default=None)

    def keep_newest(self) -> None:
        """Of a job that is done: all but its newest checkpoint, its milestones and its best go."""
        with _writing(self._folder, {}):
            self._manager.wait_until_finished()
            steps = self._manager.all_steps()
            for step in sorted({*steps} - dataclasses.replace(self._kept, newest=1).stay(steps)):
                self._manager.delete(step)

    def close(self) -> None:
        """Finish what is being written."""
        with _writing(self._folder, {}):
            self._manager.wait_until_finished()
            self._manager.close()


def _merits(path: Path) -> dict[int, float]:
    """What was noted of steps before. InputError for a file that is damaged."""
    if not path.exists():
        return {}
    try:
        return {int(step): float(merit) for step, merit in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged: remove it, or bring it back ({error})") from error


def check_place(folder: Path | str) -> None:
    """InputError for a path below which nothing that is written would be found again.

    Orbax takes "[" for the beginning of a pattern, TensorStore a backslash for another "/".
    """
    path = Path(folder).absolute()
    if found := re.search(r"[\[\\]", str(path)):
        raise InputError(
            f"{path}: checkpoints cannot be kept below a name with {found[0]} in it: rename that, "
            "or go there by a link of another name"
        )


def check_checkpoint(folder: Path) -> None:
    """InputError unless a folder of `Checkpoints` is whole; this host reads all of it."""
    _quieten()
    with _reading(folder, advice="move it away, and its stage goes on from the one before"):
        kept = json.loads((folder / CHECKSUMS / "metadata").read_text())
        check_sums(_on_host(folder / "state"), kept)


def save_params(folder: Path | str, params: Params) -> None:
    """Write a parameter tree; the folder appears once it is complete and replaces an older."""
    _quieten()
    check_place(folder)
    folder, told = Path(folder).absolute(), {CHECKSUMS: checksums(params)}
    with _writing(folder, params), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, params, force=True, custom_metadata=told)


@patiently
def load_params(
    folder: Path | str,
    abstract: Any | None = None,
    *,
    place: Callable[[Any], Any] | None = None,
) -> Params:
    """Read a parameter tree onto devices, laid out as `abstract` says, by all processes together.

    `place` makes `abstract` of the shapes that are saved, where nobody knows them before. Without
    both, this process reads all of it alone, as numpy arrays in the host's memory. InputError if
    the folder is missing or broken, an array is not what was saved, or shapes are not those of
    `abstract`.
    """
    _quieten()
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: it should hold the parameters of a stage")
    with _reading(folder, advice="delete its stage and run it again"):
        if abstract is None and place is None:
            params = _on_host(folder)
        else:
            with ocp.StandardCheckpointer() as checkpointer:
                saved = _tree(checkpointer.metadata(folder).item_metadata)
                abstract = place(saved) if abstract is None and place else abstract
                trees.check_same(abstract, saved, where=str(folder))
                params = checkpointer.restore(folder, abstract)
        check_sums(params, kept_checksums(folder))
    return params


def is_tree(path: Path) -> bool:
    """Whether a folder is one that `save_params` wrote."""
    return (path / "_CHECKPOINT_METADATA").is_file()


def kept_checksums(folder: Path | str) -> dict[str, int]:
    """What `save_params` noted of each array. InputError where there is none."""
    with _reading(Path(folder), advice="it was not written by this flashjax, or is damaged"):
        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.metadata(Path(folder).absolute()).custom_metadata
        return found[CHECKSUMS]


def _on_host(folder: Path) -> Params:
    """The tree as numpy arrays; no other process takes part."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        saved = _tree(checkpointer.metadata(folder).item_metadata)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        return checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _tree(metadata: Any) -> Any:
    """The saved tree's shapes and dtypes; Orbax says None where it cannot read them."""
    if metadata is None:
        raise ValueError("its metadata cannot be read")
    return metadata.tree


@contextlib.contextmanager
def _reading(folder: Path, *, advice: str) -> Iterator[None]:
    """What is wrong with files, as one InputError; what a disk refuses, as the OSError that it is.

    A disk that fails says nothing of the files: they may be whole.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # Orbax raises a bare Exception for data that it cannot decode.
        if type(error) is not Exception and not isinstance(error, _BROKEN):
            raise
        code = error.errno if isinstance(error, OSError) else _code(error)
        if code not in (None, errno.ENOENT, errno.ENOTDIR):
            raise OSError(code, os.strerror(code), str(folder)) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason[:200]
        raise InputError(f"{folder} is no complete checkpoint ({reason}): {advice}") from error


def _code(error: Exception) -> int | None:
    """The error number that TensorStore has in its words."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


@contextlib.contextmanager
def _writing(folder: Path, tree: Any) -> Iterator[None]:
    """What a disk refuses Orbax, as the OSError that everything else raises for it.

    A disk that is full already is found out before: Orbax's threads would fill the terminal.
    """
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    disk = shutil.disk_usage(place)
    if 0 < disk.total and disk.free < sum(leaf.nbytes for leaf in jax.tree.leaves(tree)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    try:
        yield
    except ValueError as error:
        code = _code(error)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(folder)) from error


def _quieten() -> None:
    """Orbax reports every file at INFO; its threads and tasks, all that they raise for us too."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("orbax").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    _forget_late_futures()


@functools.cache
def _forget_late_futures() -> None:
    """What TensorStore says of a read after the loop that waited for it gave up is no news."""
    told = sys.unraisablehook

    def tell(what: Any) -> None:
        if str(what.exc_value) != "Event loop is closed":
            told(what)

    sys.unraisablehook = tell
