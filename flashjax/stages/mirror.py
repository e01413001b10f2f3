"""A workdir at an address: a copy on this machine is worked in, and put there at every save.

Checkpoints, caches and weights want files and locks, which buckets have not. What is put there is
always a whole: the folder as a job that was killed at that moment would have left it here. So a run
goes on from it on any machine as it would have gone on here. One job at a time has the address.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeAlias

from flashjax.data.remote.lock import Taken, held
from flashjax.data.remote.manifest import Manifest
from flashjax.data.remote.shelf import Check, check_ours, pull, push
from flashjax.data.remote.store import Store, cache_folder, is_bucket
from flashjax.data.remote.told import calling
from flashjax.parallel.hosts import any_process, is_first, meet
from flashjax.stages.contents import CHECKPOINTS, DRAFT, SCRATCH, TRACES, UNFINISHED, files_below
from flashjax.stages.refused import RECORD
from flashjax.types import InputError, listed

RUNS = "runs"  # the folder of the copies of workdirs
NOT_KEPT = ("compiled",)  # of a workdir: every machine makes its own
LINKED = 2**20  # bytes; smaller files are copied: some are written again in place

# Of a file that is as it was put there: its bytes, the time of its last change, its version's id.
Here: TypeAlias = dict[str, tuple[int, int, str]]

log = logging.getLogger(__name__)
_open: list["Mirror"] = []  # the one of this process, while it is at work


@contextlib.contextmanager
def opened(text: str, *, look: bool = False) -> Iterator[Path]:
    """The folder to work in: the workdir itself, or the copy of one at an address.

    At its end all is put there, however it ends. To `look` needs no lock, and puts nothing there.
    InputError where another job is at work there, for what is not ours, and for a job on several
    machines, which see no folder in common.
    """
    if not is_bucket(text):
        yield Path(text)
        return
    text = text.rstrip("/")
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    place = cache_folder() / RUNS / key
    folder = place / text.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    _check_common(place, text)
    if look or not is_first():
        meet("the workdir is here")
        yield folder
        return
    store = Store.of(text)
    with held(store) as check, calling(folder, text):
        mirror = Mirror(store, folder, check)
        mirror.bring()
        meet("the workdir is here")
        _open.append(mirror)
        try:
            yield folder
        finally:
            _open.remove(mirror)
            mirror.end()


def note() -> None:
    """Has the workdir put at its address as it is now; nothing where it is a folder."""
    for mirror in _open:
        mirror.note()


def watching(folder: Path) -> Callable[..., None]:
    """A hook of a loop that has every checkpoint of a stage's folder put at the address."""
    before = _steps(folder)

    def hook(*_: object) -> None:
        nonlocal before
        if _open and (now := _steps(folder)) != before:
            before = now
            for mirror in _open:
                mirror.note(live=True)

    return hook


class Mirror:
    """A folder here, and how much of it is at its address already."""

    def __init__(self, store: Store, folder: Path, check: Check) -> None:
        self._store, self._folder, self._check = store, folder, check
        self._place = folder.parent
        self._pending: Path | None = None
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        self._failed: InputError | OSError | None = None
        self._here: Here = {}

    def bring(self) -> None:
        """Makes the folder what is at the address; one that is ahead of it stays."""
        for left in self._place.glob("new-*"):
            shutil.rmtree(left)
        manifest = check_ours(self._store)
        self._here = self._recorded()
        if {name: found[2] for name, found in self._here.items()} == _ids(manifest):
            self._restore(manifest)
            return  # nobody else was at work there: what a killed job left here is the newest
        _keep_only(self._folder, manifest.files)
        same = {name: found[2] for name, found in self._here.items() if self._is_same(name)}
        pull(self._store, manifest, self._folder, same)
        self._remember({name: self._folder / name for name in manifest.files}, manifest)

    def _restore(self, manifest: Manifest) -> None:
        """Brings back what was lost here: it must not be lost there, too.

        These are results of finished stages, and checkpoints: a job may have taken away older ones
        than it has, and writes in none.
        """
        done = [name.removesuffix(RECORD) for name in self._here if self._is_done(name)]

        def is_result(name: str) -> bool:
            rests = [name.removeprefix(folder) for folder in done if name.startswith(folder)]
            return any(not rest.startswith((*TRACES, CHECKPOINTS)) for rest in rests)

        def is_kept(name: str) -> bool:
            stage, inside, rest = name.rpartition(f"/{CHECKPOINTS}/")
            step, folder = rest.partition("/")[0], self._folder / stage
            if not inside or not step.isdecimal() or not self._is_same(f"{stage}/{RECORD}"):
                return False  # a stage without the record that is there may have been begun anew
            here = _steps(folder)
            return int(step) in here or int(step) > max(here, default=-1)

        lost_here = [name for name in self._here if not self._is_same(name)]
        gone = [name for name in lost_here if is_result(name) or is_kept(name)]
        lost = {name: manifest.files[name] for name in gone}
        if lost:
            log.warning("%s: %s is brought back", self._folder, listed(gone))
            pull(self._store, dataclasses.replace(manifest, files=lost), self._folder, {})
            self._remember({name: self._folder / name for name in lost}, manifest)

    def note(self, *, live: bool = False) -> None:
        """Has the folder as it is now put at the address, by a thread.

        `live` says that a checkpoint may be taken away just now. `Taken` where another job has the
        address.
        """
        if isinstance(self._failed, Taken):
            raise self._failed
        shot = self._place / f"new-{uuid.uuid4().hex}"
        self._take(shot, live)
        with self._turn:
            older, self._pending = self._pending, shot
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        if older:
            shutil.rmtree(older)

    def end(self) -> None:
        """Waits until all is there. InputError where it is not: then it is here."""
        self.note()
        if thread := self._thread:
            thread.join()
        if self._failed:
            raise InputError(
                f"not all is put there ({self._failed}): it is kept in {self._folder}, and the "
                "same command goes on from it"
            ) from self._failed

    def _work(self) -> None:
        while True:
            with self._turn:
                shot, self._pending = self._pending, None
                if shot is None:
                    self._thread = None
                    return
            self._failed = None
            try:
                self._put(shot)
            except (InputError, OSError) as error:  # a network may be back at the next save
                self._failed = error
                log.warning("%s: not put there: %s", self._store, error)
            shutil.rmtree(shot)

    def _put(self, shot: Path) -> None:
        files = dict(_files(shot))
        unchanged = {name: self._here[name][2] for name in files if self._is_same(name, shot)}
        manifest = push(self._store, files, unchanged=unchanged, check=self._check)
        self._remember(files, manifest)

    def _take(self, shot: Path, live: bool) -> None:
        """A copy of the folder as it is; large files are links, for nobody writes in them."""
        shot.mkdir()
        for name, path in _files(self._folder):
            copy = shot / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            grows = any(part.startswith(TRACES) for part in Path(name).parts)
            with contextlib.suppress(FileNotFoundError):  # it is being taken away
                if path.stat().st_size < LINKED or grows:
                    shutil.copy2(path, copy)
                else:
                    os.link(path, copy)
        for step in _partial(shot, self._here) if live else ():
            shutil.rmtree(step)

    def _is_same(self, name: str, folder: Path | None = None) -> bool:
        path = (folder or self._folder) / name
        return name in self._here and path.is_file() and _stat(path) == self._here[name][:2]

    def _is_done(self, name: str) -> bool:
        """Whether a file is the record of a stage that is finished, here as at the address."""
        if name.rpartition("/")[2] != RECORD or not self._is_same(name):
            return False
        return bool(json.loads((self._folder / name).read_text()).get("status") == "done")

    def _recorded(self) -> Here:
        path = self._place / "here.json"
        if not path.is_file():
            return {}
        return {name: tuple(found) for name, found in json.loads(path.read_text()).items()}

    def _remember(self, files: dict[str, Path], manifest: Manifest) -> None:
        ids = _ids(manifest)
        self._here = {name: found for name, found in self._here.items() if name in ids}
        self._here |= {name: (*_stat(path), ids[name]) for name, path in files.items()}
        draft = self._place / "here.tmp"
        draft.write_text(json.dumps(self._here))
        draft.replace(self._place / "here.json")


def _check_common(place: Path, text: str) -> None:
    """InputError unless all processes see the first one's folder, as it is now."""
    mark = place / "common"
    mark.unlink(missing_ok=True)  # of an earlier start, which may have been on this machine alone
    meet("no folder is marked")
    if is_first():
        mark.write_text(text)
    meet("a folder in common")
    if any_process(not mark.is_file()):
        raise InputError(
            f"--workdir {text}: a job on several machines needs a folder that all of them see: "
            "mount the bucket (gcsfuse, mount-s3) and give its path"
        )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a workdir by name, without drafts, locks and what is not kept."""
    for path in files_below(folder):
        parts = path.relative_to(folder).parts
        unfinished = any(UNFINISHED in p or SCRATCH.fullmatch(p) for p in parts)
        skipped = parts[0] in NOT_KEPT or parts[-1] == ".lock" or DRAFT.fullmatch(parts[-1])
        if not unfinished and not skipped and path.is_file():
            yield "/".join(parts), path


def _partial(shot: Path, here: Here) -> list[Path]:
    """Checkpoints that may have been half taken away already: older ones, but for known files."""
    found = []
    for place in [path for path in shot.rglob(CHECKPOINTS) if path.is_dir()]:
        for step in _steps(place.parent)[:-1]:
            name = f"{place.relative_to(shot).as_posix()}/{step}"
            known = [file for file in here if file.startswith(f"{name}/")]
            if not known or not all((shot / file).is_file() for file in known):
                found.append(place / str(step))
    return found


def _keep_only(folder: Path, names: Collection[str]) -> None:
    """Takes all other files of a copy away, and folders that are empty then."""
    for name, path in list(_files(folder)):
        if name not in names:
            path.unlink()
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def _steps(folder: Path) -> list[int]:
    names = (path.name for path in (folder / CHECKPOINTS).glob("*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _ids(manifest: Manifest) -> dict[str, str]:
    return {name: entry.id for name, entry in manifest.files.items()}


def _stat(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
