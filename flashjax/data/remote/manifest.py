"""What lies in a folder at an address because we put it there: one small object, written last.

A service replaces one object at once, and never several. So the manifest names every file of a
folder and the object that has it; what it names is never written over, and what it does not name is
no part of the folder, or is somebody else's.
"""

import dataclasses
import json
from collections.abc import Mapping

from flashjax import config as configs
from flashjax.data.remote.store import Stamp, Store
from flashjax.types import InputError, Whole

OURS = ".flashjax"  # the folder of what only we read
NAME = f"{OURS}/manifest.json"
LOCK = f"{OURS}/lock.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file: its bytes and mark, an id that no other version has, and the object that has it."""

    bytes: Whole
    mark: str
    id: str
    at: str

    @property
    def stamp(self) -> Stamp:
        return self.bytes, self.mark


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All files by name, and the objects that somebody of us was about to write."""

    files: Mapping[str, Entry]
    coming: tuple[str, ...] = ()

    def owns(self, name: str, stamp: Stamp) -> bool:
        """Whether an object is ours, as we left it."""
        if name in self.coming or name in (NAME, LOCK):
            return True
        return any(entry.at == name and entry.stamp == stamp for entry in self.files.values())


def read_manifest(store: Store) -> Manifest | None:
    """The manifest of a folder; None where we have put nothing."""
    content = store.read(NAME)
    if content is None:
        return None
    where = f"{store}/{NAME}"
    try:
        found = json.loads(content)
    except ValueError as error:
        raise InputError(f"{where} is no JSON: move it away, or use another address") from error
    return configs.record(found, where, Manifest)


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Writes it, whole or not at all."""
    store.put(NAME, json.dumps(dataclasses.asdict(manifest), indent=1).encode())
