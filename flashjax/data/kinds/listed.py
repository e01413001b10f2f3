"""Pictures that are listed: where each lies and what it is called, whatever it lies in."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Literal

import numpy as np

from flashjax.data.config import REFUSE
from flashjax.data.pictures import read_picture, read_size
from flashjax.data.samples import Sample
from flashjax.types import InputError

PICTURES = ("file_name", "image", "path", "filename", "image_path", "file", "img")
CAPTIONS = ("text", "caption", "prompt", "captions")  # how columns are called, and fields

ADVICE = (
    "write it, set data.empty_caption to the text that stands for it, or data.captions=none to "
    "learn pictures alone"
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Wording:
    """What is learnt of captions: what stands for one that is missing, and which of several."""

    empty: str = REFUSE
    several: Literal["first", "random", "none"] = "first"
    seed: int = 0

    @property
    def unread(self) -> bool:
        """Whether nothing is learnt of captions, and they may be missing."""
        return self.several == "none"

    @property
    def refuses(self) -> bool:
        """Whether a caption that is missing is an error."""
        return self.empty == REFUSE and not self.unread

    def of(self, captions: Sequence[str], index: int) -> str:
        """The caption of sample `index`, of one or more; without any, what stands for it."""
        if self.unread:
            return ""
        if not captions:
            return self.empty
        if len(captions) == 1 or self.several == "first":
            return captions[0]
        return captions[int(np.random.default_rng((self.seed, index)).integers(len(captions)))]

    def checked(self, captions: Sequence[str], index: int, where: str) -> str:
        """The same. InputError where none is there and none may stand for it."""
        if not captions and self.refuses:
            raise InputError(f"{where} has no caption: {ADVICE}")
        return self.of(captions, index)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One picture with its captions: where it is, in words, and how it is opened.

    `mark` tells it from another of the same name: the bytes of its file, where they are known.
    """

    where: str
    captions: tuple[str, ...]
    open: Callable[[], BinaryIO]
    mark: str = ""


class Listed:
    """Entries as samples."""

    def __init__(self, name: str, entries: Sequence[Entry], captions: Sequence[str]) -> None:
        self.name, self._entries, self._captions = name, entries, captions

    @property
    def digest(self) -> str:
        """Of all names, captions and sizes in bytes, in their order; pictures are not read."""
        told = hashlib.sha256()
        for entry, caption in zip(self._entries, self._captions, strict=True):
            line = f"{entry.where}\0{caption}\0{entry.mark}\n"
            told.update(line.encode("utf-8", "surrogateescape"))
        return told.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int, /) -> Sample:
        entry = self._entries[index]
        return Sample(read_picture(entry.open, entry.where), self._captions[index])

    def size(self, index: int, /) -> tuple[int, int]:
        """Height and width, from the header."""
        entry = self._entries[index]
        return read_size(entry.open, entry.where)


def captioned(name: str, entries: Sequence[Entry], wording: Wording) -> Listed:
    """Entries as samples, each with one caption. InputError for none, unless another stands in."""
    bare = [entry.where for entry in entries if not entry.captions]
    if bare and wording.refuses:
        raise InputError(
            f"{name}: {len(bare)} of {len(entries)} pictures have no caption ({first_of(bare)}): "
            f"{ADVICE}"
        )
    several = [entry.where for entry in entries if len(entry.captions) > 1]
    if several and not wording.unread:
        way = "the first" if wording.several == "first" else "one at random"
        log.info(
            "%s: %d of %d pictures have several captions (%s): %s of each is learnt",
            *(name, len(several), len(entries), first_of(several), way),
        )
    chosen = [wording.of(entry.captions, index) for index, entry in enumerate(entries)]
    return Listed(name, entries, chosen)


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """The captions that a cell holds, each on one line: a text, several, or none.

    InputError for what is no text.
    """
    if value is None or value != value:  # as tables spell a cell that is empty: NaN
        return ()
    if isinstance(value, list | tuple):
        return tuple(text for part in value for text in texts_of(part, where))
    if not isinstance(value, str):
        raise InputError(f"{where}: its caption is {value!r:.40}, no text")
    whole = value.encode("utf-8", "replace").decode()  # a character that was cut in half
    return (" ".join(whole.split()),) if whole.strip() else ()


def first_of(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
