"""What a run reads at an address, as files of this machine: brought once, for all processes here.

A copy lies under a name made of the address and of every object's size and mark, so that what has
changed there is brought anew, and nobody reads a half.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flashjax.data.remote.manifest import NAME, read_manifest
from flashjax.data.remote.store import Stamp, Store, cache_folder, check_room, is_bucket
from flashjax.types import InputError

SOURCES, COPY = "sources", "copy"  # the folder of copies, and of a copy's files
DONE = "whole"  # a file that says that a copy is

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Found:
    """An object that is to be brought: of which store, its name there, its size and mark."""

    store: Store
    name: str
    stamp: Stamp


def fetched(text: str, *, beside: Sequence[str] = ()) -> Path:
    """The path of a file or folder here, brought from its address if it is no path already.

    `beside` names folders that belong to it where they lie beside it. InputError where nothing is
    there, what is there was never finished, or the disk is too small.
    """
    if not is_bucket(text):
        return Path(text)
    text = text.rstrip("/")
    found = _found(text, beside)
    told = [text, *(f"{path} {one.stamp}" for path, one in found.items())]
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    place = cache_folder() / SOURCES / key
    with _alone(place.with_suffix(".lock"), text):
        if not (place / DONE).is_file():
            _bring(text, found, place)
            if found != _found(text, beside):
                raise InputError(f"{text} has changed while it was brought here: try again")
            (place / DONE).touch()
    return place / COPY / _name(text)


def _found(text: str, beside: Sequence[str]) -> dict[str, Found]:
    """The objects of an address, and of what belongs to it, by their paths in a copy."""
    found = _of_one(text)
    if not found:
        raise InputError(f"{text}: nothing is there, or it may not be read: check the address")
    if _name(text) in found:  # a file
        return found
    for other in beside:
        found |= _of_one(f"{text.rpartition('/')[0]}/{other}")
    return found


def _of_one(text: str) -> dict[str, Found]:
    store, name = Store.of(text), _name(text)
    stamps = store.stamps()
    objects = {entry: (entry, stamp) for entry, stamp in stamps.items()}
    manifest = read_manifest(store) if NAME in stamps else None
    if manifest is not None:
        if not manifest.files:
            raise InputError(f"{text}: its upload was cut short, run again what put it there")
        objects = {file: (entry.at, entry.stamp) for file, entry in manifest.files.items()}
        if any(stamps.get(at) != stamp for at, stamp in objects.values()):
            raise InputError(f"{text} is not what was put there: put it there again")
    return {
        f"{name}/{file}".rstrip("/"): Found(store, at, stamp)
        for file, (at, stamp) in objects.items()
        if not file.endswith("/")  # what some tools keep for a folder
    }


def _bring(text: str, found: Mapping[str, Found], place: Path) -> None:
    """Brings all that is not there yet of a copy that may have been begun."""
    place.mkdir(parents=True, exist_ok=True)
    missing = {path: one for path, one in found.items() if not (place / COPY / path).is_file()}
    need = sum(one.stamp[0] for one in missing.values())
    check_room(place, need, text)
    log.info("%s: %d files, %.3g GB are brought to %s", text, len(missing), need / 1e9, place)
    for path, one in missing.items():
        one.store.bring(one.name, place / COPY / path, one.stamp[0])


def _name(text: str) -> str:
    return text.rpartition("/")[2]


@contextlib.contextmanager
def _alone(lock: Path, text: str) -> Iterator[None]:
    """The other processes of this machine wait until the first has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s is being brought by another process: waiting", text)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
