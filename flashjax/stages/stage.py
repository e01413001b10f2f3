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
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

from flashjax import config as configs
from flashjax.parallel import signals
from flashjax.parallel.hosts import is_first, meet
from flashjax.types import InputError

# Does the work in the stage's folder, from its own checkpoints if there are any, and returns the
# figures worth keeping, as JSON.
Body: TypeAlias = Callable[[Path], dict[str, Any]]

LOCK = ".lock"
KEPT_BY_TOOLS = {".git", ".cache"}  # in a folder that was downloaded
WEIGHTS = ("*.safetensors", "*.gguf")
TRACES = ("stage.json", "metrics", "hosts", LOCK)  # of a stage's folder, how their names begin
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
    files that it reads. A folder of another config or of changed inputs is an InputError, but where
    a stage was refused or stopped before its first checkpoint, nothing is lost: it starts anew.
    """
    folder = Path(workdir) / name
    before, anew = read_stage(folder), came_to_nothing(folder)
    asked = {
        "stage": name,
        "seed": seed,
        "section": configs.to_dict(section),
        "config_digest": configs.digest(section),
        "inputs": {key: _described(Path(path), key, before) for key, path in inputs.items()},
    }
    if before is not None and not anew:
        _check_unchanged(folder, before, asked)
        if before["status"] == "done":
            log.info("%s skipped: already done", name)
            return before["results"]
        log.info("%s was interrupted: it goes on", name)
    seconds_before = 0.0 if before is None or anew else before["seconds"]
    record = asked | {"versions": versions(), "status": "running", "seconds": seconds_before}
    first = is_first()
    meet(f"{name} is read")  # before it is written
    if first:
        for path in map(Path, inputs.values()):
            check_whole(path)
        if before is not None and anew:
            for metrics in folder.glob("metrics*"):  # or its curves would begin twice
                shutil.rmtree(metrics)
        folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with signals.saving(lambda: saved_of(folder)), at_work(folder) if first else nullcontext():
        if first:
            write_json(folder / "stage.json", record)
        try:
            results = body(folder) if first or not alone else {}
            record |= {"status": "done", "results": results}
            record |= {"weights": weights_of(folder)} if first else {}
        finally:
            record["seconds"] = round(seconds_before + time.monotonic() - started, 3)
            if first:
                write_json(folder / "stage.json", record)
    meet(f"{name} is written")
    log.info("%s done in %.0f s", name, record["seconds"])
    return stage_results(folder) if alone else results


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Holds a stage's folder. InputError where another job does; it is free when its job ends."""
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


def saved_of(folder: Path) -> str:
    """What a stage has to go on from, should it end now."""
    done = [int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit()]
    if done:
        return f"{folder.name} is saved up to step {max(done)}"
    return f"{folder.name} begins anew, the stages before it are saved"


def weights_of(folder: Path) -> dict[str, str]:
    """A digest of each tree of parameters and file of weights in a stage's folder, by its path.

    Checkpoints are the stage's own, and not handed on.
    """
    kinds = [folder.rglob(pattern) for pattern in ("params", *WEIGHTS)]
    found = (path.relative_to(folder) for paths in kinds for path in paths)
    return {
        str(path): _digest(folder / path)
        for path in sorted(found)
        if not any(part.startswith(("checkpoints", ".")) for part in path.parts)
    }


def check_whole(folder: Path) -> None:
    """InputError where the weights of a finished stage are not those that it wrote."""
    kept = (read_stage(folder) or {}).get("weights", {})
    found = weights_of(folder) if kept else {}
    changed = sorted(name for name, digest in kept.items() if found.get(name) != digest)
    if changed:
        raise InputError(
            f"{folder / changed[0]} is not what its stage wrote: bring that back, or delete "
            f"{folder} to run it anew"
        )


def read_stage(folder: Path | str) -> dict[str, Any] | None:
    """The stage.json of a folder, or None if there is none."""
    path = Path(folder) / "stage.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is no JSON: delete {path.parent} to run it anew") from error


def came_to_nothing(folder: Path) -> bool:
    """Whether a stage left neither checkpoint nor result: another config may have its place."""
    record = read_stage(folder)
    if record is not None and record["status"] == "done":
        return False
    return all(_is_trace(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _is_trace(path: Path) -> bool:
    """Whether a file of a stage says how it went, and is nothing that came of it."""
    unfinished = any(".orbax-checkpoint-tmp" in part for part in path.parts)
    return unfinished or path.parts[0].startswith(TRACES)


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
    Path(workdir).mkdir(parents=True, exist_ok=True)
    write_json(Path(workdir) / "config.json", configs.to_dict(config))


def _check_unchanged(folder: Path, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """InputError if the folder's stage was asked for something else."""
    advice = f"use another --workdir or delete {folder}"
    was, now = ({"seed": r["seed"], **_leaves(r["section"])} for r in (before, asked))
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            change = f"{key}: {was.get(key)} -> {now.get(key)}"
            raise InputError(
                f"workdir {folder.parent} holds stage {folder.name!r} of another config "
                f"(differs in {change}): {advice}"
            )
    for key in sorted(before["inputs"].keys() | asked["inputs"].keys()):
        pair = before["inputs"].get(key), asked["inputs"].get(key)
        if None in pair or pair[0]["digest"] != pair[1]["digest"]:
            raise InputError(
                f"workdir {folder.parent} holds stage {folder.name!r} of another input "
                f"({key} has changed): {advice}"
            )


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Values of nested dicts by dotted path."""
    if not isinstance(tree, dict):
        return {path: tree}
    prefix = f"{path}." if path else ""
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in _leaves(value, f"{prefix}{key}").items()
    }


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
    """The files of a folder, but for what its own tools keep there."""
    return sorted(
        child
        for child in folder.rglob("*")
        if child.is_file() and not KEPT_BY_TOOLS.intersection(child.relative_to(folder).parts)
    )


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
