"""What a bucket does, by names below an address: list, read, put, send, bring, copy, remove."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from flashjax.data.answers import answering
from flashjax.data.files import Address, is_remote
from flashjax.types import InputError

Stamp: TypeAlias = tuple[int, str]  # bytes of an object, and what changes whenever it is written
CACHE = "FLASHJAX_CACHE"  # where copies of what lies elsewhere are kept
WEB = ("http", "https", "hf")  # schemes of pages: nothing is put there
ROOM = 1.02  # of what is brought: a disk that is filled to its last byte serves nobody

_MARKS = "generation ETag etag md5Hash md5 LastModified last_modified mtime created".split()


class Store(Address):
    """A folder, or a file as "", at an address.

    What a service refuses is an InputError of one line.
    """

    def stamps(self) -> dict[str, Stamp]:
        """Every object below, or the one that this is, by its sorted name."""
        with answering(self.text):
            self._files.invalidate_cache()
            if self.is_file():
                return {"": _stamp(self._files.info(self._path))}
            try:
                found = self._files.find(self._path, detail=True).items()
            except FileNotFoundError:  # the bucket itself
                return {}
        start = len(self._path.rstrip("/")) + 1
        return dict(sorted((path[start:], _stamp(info)) for path, info in found))

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object; None where there is none."""
        with answering(self.text), contextlib.suppress(FileNotFoundError):
            self._files.invalidate_cache()
            return self._files.cat_file(self._at(name))
        return None

    def put(self, name: str, content: bytes, *, new: bool = False) -> bool:
        """Writes a small object, whole or not at all; where it must be `new`, whether it was."""
        with answering(self.text, writing=True):
            self._make_room(name)
            try:
                self._files.pipe_file(
                    self._at(name), content, mode="create" if new else "overwrite"
                )
            except FileExistsError:
                if not new:
                    raise
                return False
        return True

    def send(self, file: Path, name: str) -> None:
        """Uploads a file."""
        with answering(f"{self.text}/{name}", writing=True):
            self._make_room(name)
            self._files.put_file(str(file), self._at(name))

    def bring(self, name: str, file: Path, size: int) -> None:
        """Downloads an object of `size` bytes; the file appears whole or not at all."""
        where = f"{self.text}/{name}" if name else self.text
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        with answering(where):
            self._files.get_file(self._at(name), str(draft))
        if draft.stat().st_size != size:
            got = draft.stat().st_size
            draft.unlink()
            raise InputError(f"{where} came as {got} bytes of {size}: try again")
        draft.replace(file)

    def copy(self, name: str, other: str) -> None:
        """Makes `other` the same object as `name`, within the service."""
        with answering(self.text):
            self._make_room(other)
            self._files.cp_file(self._at(name), self._at(other))

    def remove(self, name: str) -> None:
        """Removes an object; one that is gone is no error."""
        with answering(self.text), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}" if name else self._path

    def _make_room(self, name: str) -> None:
        if "file" in self._files.protocol:  # where folders are real, they are made before files
            self._files.makedirs(os.path.dirname(self._at(name)), exist_ok=True)


def is_bucket(text: str) -> bool:
    """Whether a text is an address that files are brought from and put to."""
    return is_remote(text) and text.partition("://")[0] not in WEB


def cache_folder() -> Path:
    """Where copies of what lies elsewhere are kept: $FLASHJAX_CACHE, or ~/.cache/flashjax."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get(CACHE) or f"{home}/flashjax").expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_room(folder: Path, need: int, what: str) -> None:
    """InputError for a disk that has no room for what is to be brought to a folder."""
    free = shutil.disk_usage(folder).free
    if need * ROOM > free:
        raise InputError(
            f"{what} has {need / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free in {folder}: free "
            f"some, or set {CACHE} to a folder on a larger disk"
        )


def _stamp(info: Mapping[str, Any]) -> Stamp:
    mark = next((info[key] for key in _MARKS if info.get(key)), "")
    return int(info["size"] or 0), str(mark)
