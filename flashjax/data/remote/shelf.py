"""A folder at an address, kept as a whole: put there in one step, and brought back from there.

A file that is new goes to its own name; one that has changed to a name of its own below `.flashjax`
until the manifest names it, and to its own name after that. So the manifest holds at any moment, be
the job killed between any two objects, and whoever reads plain names sees the newest soon after.
"""

import dataclasses
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeAlias

from flashjax.data.remote.manifest import (
    OURS,
    Entry,
    Manifest,
    read_manifest,
    write_manifest,
)
from flashjax.data.remote.store import Stamp, Store, check_room
from flashjax.types import InputError, listed

Check: TypeAlias = Callable[[], None]  # InputError where a folder is no longer ours to write
Known: TypeAlias = Mapping[str, str]  # the id of the version of a file that is here already
EMPTY = Manifest({})


def check_ours(store: Store, names: Collection[str] | None = None) -> Manifest:
    """The manifest of a folder, once all objects there, or those of `names`, are ours.

    InputError for one that somebody else put there, or has changed.
    """
    manifest = read_manifest(store) or EMPTY
    foreign = [
        name
        for name, stamp in store.stamps().items()
        if (names is None or name in names) and not manifest.owns(name, stamp)
    ]
    if foreign:
        raise InputError(
            f"{store} holds {listed(foreign)}, which flashjax did not put there so: choose another "
            "address, or move that away"
        )
    return manifest


def push(
    store: Store,
    files: Mapping[str, Path],
    *,
    unchanged: Known | None = None,
    keep: Callable[[str], bool] = lambda name: False,
    check: Check = lambda: None,
) -> Manifest:
    """Makes a folder hold `files`, by name, and of what it held only what `keep` says.

    `unchanged` are names whose version is that of the manifest. InputError where an object that is
    not ours is in the way: then nothing is put there.
    """
    before = check_ours(store, files)
    new = [name for name in files if not _is_there(before, name, unchanged or {})]
    ids = {name: uuid.uuid4().hex for name in new}
    at = {name: f"{OURS}/{ids[name]}" if name in before.files else name for name in new}
    stay = {name: e for name, e in before.files.items() if keep(name) or name in files}
    if not new and stay == before.files and not before.coming:
        return settle(store, before, check) if _moved(before) else before
    check()
    _forget_leftovers(store, before)
    write_manifest(store, dataclasses.replace(before, coming=tuple(sorted(at.values()))))
    for name in new:
        store.send(files[name], at[name])
    stamps = store.stamps()
    for name in new:
        _check_sent(store, at[name], stamps, files[name])
    sent = {name: Entry(*stamps[at[name]], ids[name], at[name]) for name in new}
    check()
    committed = Manifest(dict(sorted((stay | sent).items())))
    gone = sorted({entry.at for entry in before.files.values()} - _objects(committed))
    write_manifest(store, dataclasses.replace(committed, coming=tuple(gone)))
    return settle(store, committed, check)


def settle(store: Store, manifest: Manifest, check: Check = lambda: None) -> Manifest:
    """Brings changed files under their own names, and takes away what no file has any more."""
    moved = _moved(manifest)
    found = read_manifest(store) or manifest
    left = set(found.coming) - _objects(manifest)
    if moved:
        coming = tuple(sorted(left | moved.keys()))
        write_manifest(store, dataclasses.replace(manifest, coming=coming))
        for name, entry in moved.items():
            store.copy(entry.at, name)
        stamps = store.stamps()
        own = {
            name: dataclasses.replace(entry, at=name, mark=stamps[name][1])
            for name, entry in moved.items()
            if stamps[name][0] == entry.bytes
        }
        left |= {manifest.files[name].at for name in own}
        manifest = Manifest(dict(sorted(({**manifest.files, **own}).items())))
        check()
    left -= _objects(manifest)
    write_manifest(store, dataclasses.replace(manifest, coming=tuple(sorted(left))))
    for name in sorted(left):
        store.remove(name)
    write_manifest(store, manifest)
    return manifest


def pull(store: Store, manifest: Manifest, folder: Path, here: Known) -> None:
    """Makes a local folder, which is ours, hold what the manifest says; `here` is not brought.

    InputError where an object is no longer what was put there, or the disk is too small.
    """
    stamps = store.stamps()
    wrong = [name for name, e in manifest.files.items() if stamps.get(e.at) != e.stamp]
    if wrong:
        raise InputError(f"{store}: {listed(wrong)} is not what was put there: bring that back")
    missing = {
        name: entry
        for name, entry in manifest.files.items()
        if here.get(name) != entry.id or not (folder / name).is_file()
    }
    folder.mkdir(parents=True, exist_ok=True)
    check_room(folder, sum(entry.bytes for entry in missing.values()), str(store))
    for name, entry in missing.items():
        store.bring(entry.at, folder / name, entry.bytes)


def _forget_leftovers(store: Store, before: Manifest) -> None:
    """Removes what a job that was killed had begun to put there."""
    for name in set(before.coming) - _objects(before):
        store.remove(name)


def _check_sent(store: Store, at: str, stamps: Mapping[str, Stamp], file: Path) -> None:
    size, arrived = file.stat().st_size, stamps.get(at, (-1, ""))[0]
    if arrived != size:
        raise InputError(f"{store}/{at} arrived as {arrived} bytes of {size}: try again")


def _moved(manifest: Manifest) -> dict[str, Entry]:
    """The files that lie under another name than their own."""
    return {name: entry for name, entry in manifest.files.items() if entry.at != name}


def _objects(manifest: Manifest) -> set[str]:
    return {entry.at for entry in manifest.files.values()}


def _is_there(manifest: Manifest, name: str, unchanged: Known) -> bool:
    return name in manifest.files and unchanged.get(name) == manifest.files[name].id
