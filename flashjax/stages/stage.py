"""The stage runner: a stage is a folder with stage.json, run once, resumed, or refused.

stage.json says what was asked (config and inputs, each with a digest), with what (versions), and
what came of it (status, seconds, results). It is written whole or not at all.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

from flashjax import config as configs
from flashjax.checkpoint import check_place
from flashjax.data.jsons import read_json
from flashjax.parallel import signals
from flashjax.parallel.hosts import is_first, meet, watched
from flashjax.stages import mirror
from flashjax.stages.contents import (
    CHECKPOINTS,
    DRAFT,
    SCRATCH,
    TRACES,
    UNFINISHED,
    check_contents,
    contents,
    files_below,
    sweep,
)
from flashjax.stages.identity import Change, changes, check_agreed, code_named, forbidden, told
from flashjax.stages.refused import LOCK, RECORD, STAGE, withdrawn_record
from flashjax.types import InputError, one_line

# Does the work in the stage's folder, from its own checkpoints if there are any, and returns the
# figures worth keeping, as JSON.
Body: TypeAlias = Callable[[Path], dict[str, Any]]

FORKED = "forked"
ADVICE = "use another --workdir or delete {folder}"
KEPT_BY_TOOLS = {".git", ".cache"}  # in a folder that was downloaded
ENDED = 500  # characters of what ended a stage
PACKAGES = ("flashjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

log = logging.getLogger(__name__)


def run_stage(
    name: str,
    section: Mapping[str, Any],
    workdir: Path | str,
    body: Body,
    *,
    inputs: Mapping[str, Path | str],
    seed: int,
    alone: bool = False,
) -> dict[str, Any]:
    """Run `body` in workdir/name unless it is done; return its results.

    All processes run the body together; where it is `alone`, the first does, and the others wait.
    While it is at work no other job may be in its folder.

    `section` is all that the stage depends on, as plain values; `inputs` are the stage folders or
    files that it reads; files of code that the section names are more of them. A folder of another
    identity (identity.py) or of changed inputs is an InputError, but where a stage was refused or
    stopped before its first checkpoint, nothing is lost: it starts anew. Changes of operation are
    noted with their step.
    """
    folder = Path(workdir) / name
    before, anew = stage_of(folder)
    plain = configs.to_dict(section)
    inputs = {**inputs, **code_named(plain)}
    asked = {
        "stage": name,
        "seed": seed,
        "section": plain,
        "config_digest": configs.digest(section),
        "inputs": {key: _described(Path(path), key, before) for key, path in inputs.items()},
    }
    forked = before is not None and before["status"] == FORKED
    if before is not None and not anew and not forked:
        _check_unchanged(folder, before, asked)
        if before["status"] == "done":
            with_others = told(changed_between(before, asked))
            log.info("%s skipped: already done%s", name, with_others and f" ({with_others})")
            return before["results"]
        log.info("%s was interrupted: it goes on", name)
    record = _begun(folder, asked, None if anew else before)
    first = is_first()
    check_agreed(asked)
    meet(f"{name} is read")  # before it is written
    if first:
        _make_room(folder, inputs)
    with (
        signals.saving(lambda: saved_of(folder)),
        at_work(folder, record, before) if first else nullcontext(),
    ):
        meet(f"{name} may begin")  # the folder is held, and swept: nothing of others is in it
        with nullcontext() if alone else watched(folder / STAGE, f"{name} begins"):
            results = body(folder) if first or not alone else {}
            record |= {"contents": contents(folder)} if first else {}
            record |= {"status": "done", "results": results}
    meet(f"{name} is written")
    mirror.note()
    log.info("%s done in %.0f s", name, record["seconds"])
    return stage_results(folder) if alone else results


def _begun(
    folder: Path, asked: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The record of a stage that begins, or goes on from what was recorded before."""
    record = {**asked, "versions": versions(), "status": "running", "seconds": 0.0, "changes": []}
    if before is None:
        return record
    record |= {FORKED: before[FORKED]} if FORKED in before else {}
    if before["status"] == FORKED:
        return record
    return record | {"seconds": before["seconds"], "changes": _continued(folder, before, record)}


def _make_room(folder: Path, inputs: Mapping[str, Path | str]) -> None:
    """The stage's folder, once its inputs are what their stages wrote."""
    for path in map(Path, inputs.values()):
        if noted := (read_stage(path) or {}).get("contents"):
            check_contents(path, noted)
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a stage's folder, which is there. InputError where another job does."""
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another job is at work in {folder}: wait for its end, or use another --workdir"
            ) from error
        except OSError as error:  # Lustre and NFS may be mounted without locks
            log.warning("%s cannot be locked (%s): start no second job there", folder, error)
        yield


@contextmanager
def at_work(
    folder: Path, record: dict[str, Any], before: Mapping[str, Any] | None
) -> Iterator[None]:
    """Holds a stage's folder, and writes its record at both ends, with what ended it if not well.

    InputError where another job holds it, or has been there since its record `before` was read; it
    is free when its job ends.
    """
    with held(folder):
        if read_stage(folder) != before:
            raise InputError(
                f"another job has been at work in {folder}: run the same command again"
            )
        sweep(folder)
        with withdrawn_record(folder):
            yield from recorded(folder, record)


def recorded(folder: Path, record: dict[str, Any]) -> Iterator[None]:
    """Writes a stage's record before and after what is done meanwhile."""
    write_json(folder / "stage.json", record)
    started, seconds_before = time.monotonic(), record["seconds"]
    try:
        yield
    except BaseException as error:
        record["ended"] = one_line(f"{type(error).__name__}: {error}", ENDED)
        raise
    finally:
        record["seconds"] = round(seconds_before + time.monotonic() - started, 3)
        write_json(folder / "stage.json", record)


def saved_of(folder: Path) -> str:
    """What a stage has to go on from, should it end now."""
    if done := steps_saved(folder):
        return f"{folder.name} is saved up to step {done[-1]}"
    return f"{folder.name} begins anew, the stages before it are saved"


def read_stage(folder: Path | str) -> dict[str, Any] | None:
    """The stage.json of a folder, or None if there is none."""
    path = Path(folder) / "stage.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: delete {path.parent} to run it anew") from error
    if told := _misfit(record):
        raise InputError(f"{path} is no stage's ({told}): delete {path.parent} to run it anew")
    return record


def _misfit(record: Any) -> str:
    """What a stage's record lacks; "" where it is one."""
    if not isinstance(record, dict):
        return "it is no object"
    kinds = {"seed": int, "section": dict, "inputs": dict, "status": str, "seconds": int | float}
    kinds["versions"] = dict
    if record.get("status") == "done":
        kinds["results"] = kinds["contents"] = dict
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            return f"{key} is {reprlib.repr(record.get(key))}"
    for key, entry in record["inputs"].items():
        if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
            return f"input {key} has no digest"
    return "" if isinstance(record.get("changes", []), list) else "changes are no list"


def stage_of(folder: Path) -> tuple[dict[str, Any] | None, bool]:
    """A stage's record and whether it came to nothing.

    InputError for files of others, and where one that is not done could keep none of its own.
    """
    before, anew = read_stage(folder), came_to_nothing(folder)
    if before is None or before["status"] != "done":
        check_place(folder)
    if before is None and not anew:
        raise InputError(
            f"{folder} holds files, but no stage.json: no stage wrote them; use another --workdir"
        )
    return before, anew


def stage_folders(workdir: Path) -> list[Path]:
    """The folders of stages below a workdir, linked ones too. InputError where there is none.

    Of several ways to one of them it is the one without links.
    """
    plain, linked = files_below(workdir), files_below(workdir, links=True)
    found = {path.resolve(): path.parent for path in reversed(linked) if path.name == RECORD}
    found |= {path.resolve(): path.parent for path in plain if path.name == RECORD}
    if not found:
        raise InputError(f"{workdir} holds no stage: give the --workdir of a run")
    return sorted(found.values())


def came_to_nothing(folder: Path) -> bool:
    """Whether a stage left neither checkpoint nor result: another config may have its place."""
    record = read_stage(folder)
    if (record is not None and record["status"] == "done") or steps_saved(folder):
        return False
    return all(_is_trace(path.relative_to(folder)) for path in files_below(folder))


def _is_trace(path: Path) -> bool:
    """Whether a file of a stage says how it went, and is nothing that came of it."""
    *folders, name = path.parts
    unfinished = any(UNFINISHED in p or SCRATCH.fullmatch(p) for p in folders)
    return unfinished or bool(DRAFT.fullmatch(name)) or path.parts[0].startswith((*TRACES, LOCK))


def stage_results(folder: Path | str) -> dict[str, Any]:
    """The results of a finished stage. InputError if it is not finished."""
    record = read_stage(folder)
    if record is None or record["status"] != "done":
        raise InputError(f"{folder} is not a finished stage: run it first")
    return record["results"]


def write_json(path: Path, record: Any) -> None:
    """Write JSON whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(record, indent=2) + "\n")
    draft.replace(path)


def write_config(workdir: Path | str, config: Any) -> None:
    """The resolved config of a run as workdir/config.json; the first process writes it."""
    if not is_first():
        return
    path = Path(workdir) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and "seed" not in read_json(path):
        raise InputError(f"{path} is no run's config: use another --workdir")
    write_json(path, configs.to_dict(config))


def _check_unchanged(folder: Path, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """InputError if the folder's stage was asked for something else."""
    check_identity(folder, asked["section"], asked["seed"])
    for key in sorted(before["inputs"].keys() | asked["inputs"].keys()):
        pair = before["inputs"].get(key), asked["inputs"].get(key)
        if None in pair or pair[0]["digest"] != pair[1]["digest"]:
            raise InputError(
                f"workdir {folder.parent} holds stage {folder.name!r} of another input "
                f"({key} has changed): {ADVICE.format(folder=folder)}"
            )


def check_identity(
    folder: Path, section: Mapping[str, Any], seed: int, *, rates: bool = False
) -> None:
    """InputError if the stage that is in a folder is another than that of a config's section.

    Its `rates` may be others while it is under way, unless they are asked about, too.
    """
    before = read_stage(folder)
    if before is None or before["status"] == FORKED:
        return
    asked = {"section": configs.to_dict(section), "seed": seed}
    done = rates or before["status"] == "done"
    wrong = forbidden(changed_between(before, asked), done=done)
    if wrong:
        raise InputError(
            f"workdir {folder.parent} holds stage {folder.name!r} of another config "
            f"(differs in {told(wrong)}): {ADVICE.format(folder=folder)}"
        )


def changed_between(before: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Change]:
    """What a stage is asked for now that it was not before, by dotted key."""
    was, now = ({"seed": r["seed"], **r["section"]} for r in (before, asked))
    return changes(was, now)


def _continued(folder: Path, before: Mapping[str, Any], record: Mapping[str, Any]) -> list[Any]:
    """The changes of operation on a stage's way so far, each with the step that it began at."""
    found = changed_between(before, record)
    versions = changes({"versions": before["versions"]}, {"versions": record["versions"]})
    if not (found | versions):
        return before.get("changes", [])
    reached = max(steps_saved(folder), default=0)
    log.info("%s goes on otherwise from step %d: %s", folder.name, reached, told(found | versions))
    return [*before.get("changes", []), {"step": reached, "changes": found | versions}]


def steps_saved(folder: Path) -> list[int]:
    """The steps of a stage's checkpoints."""
    names = (path.name for path in (folder / CHECKPOINTS).glob("*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _described(path: Path, name: str, record: Mapping[str, Any] | None) -> dict[str, str]:
    """Path and digest of an input: its stage.json if it is a stage, else all its bytes.

    One of the same files, sizes and times as in the stage's `record` is not read again.
    """
    if not path.exists():
        raise InputError(f"input {name} is missing: {path} does not exist, run its stage first")
    stage = read_stage(path)
    if stage is not None and stage["status"] != "done":
        raise InputError(f"input {name} is unfinished: run the stage of {path} to its end first")
    if stage is not None:
        return {"path": str(path), "digest": _digest(path / "stage.json")}
    found = {"path": str(path), "files": _listed(path)}
    known = (record or {}).get("inputs", {}).get(name, {})
    same = found == {key: known.get(key) for key in found}
    return {**found, "digest": known["digest"] if same else _digest(path)}


def _listed(path: Path) -> str:
    """A digest of the names, sizes and times of a file or a folder's files."""
    files = _files(path) if path.is_dir() else [path]
    facts = [(str(file.relative_to(path)), file.stat()) for file in files]
    lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in facts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _files(folder: Path) -> list[Path]:
    """The files of a folder and of folders that it links, but for what its own tools keep there."""
    found = files_below(folder, links=True, without=KEPT_BY_TOOLS)
    return [path for path in found if path.is_file()]


def _digest(path: Path) -> str:
    """The first 12 hex characters of the SHA-256 of a file, or of a folder's names and files."""
    if path.is_dir():
        lines = [f"{child.relative_to(path)} {_digest(child)}" for child in _files(path)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; flashjax's own only where it is installed."""
    installed = {dist.name for dist in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
