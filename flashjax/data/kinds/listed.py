"""Pictures that are listed: where each lies and what it is called, whatever it lies in."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

from flashjax.data.config import REFUSE
from flashjax.data.pictures import read_picture, read_size
from flashjax.data.samples import Sample
from flashjax.types import InputError


@dataclasses.dataclass(frozen=True)
class Entry:
    """One picture with its caption: where it is, in words, and how it is opened.

    `mark` is what tells it from another of the same name: its size in bytes.
    """

    where: str
    caption: str
    open: Callable[[], BinaryIO]
    mark: str = ""


class Listed:
    """Entries as samples."""

    def __init__(self, name: str, entries: Sequence[Entry]) -> None:
        self.name, self._entries = name, entries

    @property
    def digest(self) -> str:
        """Of all names, captions and sizes in bytes, in their order."""
        lines = (f"{e.where}\0{e.caption}\0{e.mark}" for e in self._entries)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int, /) -> Sample:
        entry = self._entries[index]
        return Sample(read_picture(entry.open, entry.where), entry.caption)

    def size(self, index: int, /) -> tuple[int, int]:
        """Height and width, from the header."""
        entry = self._entries[index]
        return read_size(entry.open, entry.where)


def captioned(name: str, entries: Sequence[Entry], empty: str) -> Listed:
    """Entries as samples; a caption that is missing is refused, or is `empty`."""
    bare = [entry.where for entry in entries if not entry.caption.strip()]
    if bare and empty == REFUSE:
        first = ", ".join(bare[:3]) + (", …" if len(bare) > 3 else "")
        raise InputError(
            f"{name}: {len(bare)} of {len(entries)} pictures have no caption ({first}): write "
            f"them, or set data.empty_caption to the text that stands for them"
        )
    whole = [
        entry if entry.caption.strip() else dataclasses.replace(entry, caption=empty)
        for entry in entries
    ]
    return Listed(name, whole)
