"""Files wherever they lie: on this machine, or where fsspec reaches (gs://, s3://)."""

import dataclasses
import errno
import glob
import io
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Self, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from flashjax.data.answers import answering
from flashjax.types import InputError

NAMELESS = (errno.ENAMETOOLONG, errno.ELOOP)  # of names that no file can have
_REMOTE = re.compile(r"[a-z][a-z0-9+]*://")
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A file or a folder: how the user calls it, its filesystem and its path there."""

    text: str
    _files: Any
    _path: str

    @classmethod
    def of(cls, text: str | os.PathLike[str]) -> Self:
        """The address that a text names. InputError for a scheme that nobody here can read."""
        text = os.fspath(text)
        if not is_remote(text):
            return cls(text, LocalFileSystem(), os.path.abspath(text))
        scheme = text.partition("://")[0]
        try:
            files, path = url_to_fs(text)
        except ImportError as error:
            package = _PACKAGES.get(scheme, "")
            advice = f"pip install {package}" if package else f"{error}"
            raise InputError(f"{text}: {scheme}:// needs another package: {advice}") from error
        except ValueError as error:
            raise InputError(
                f"{text}: {scheme}:// is unknown: give a path, gs:// or s3://"
            ) from error
        return cls(text, files, path)

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        return posixpath.basename(self._path)

    @property
    def suffix(self) -> str:
        """In small letters, with its dot."""
        return posixpath.splitext(self._path)[1].lower()

    @property
    def local(self) -> str | None:
        """The path on this machine; None for what lies elsewhere."""
        return None if is_remote(self.text) else self._path

    @property
    def parent(self) -> "Address":
        return Address.of(posixpath.dirname(self.text.rstrip("/")) or ".")

    def within(self, name: str) -> "Address":
        """A file below this folder; `name` may be absolute, or an address of its own."""
        if is_remote(name) or posixpath.isabs(name):
            return Address.of(name)
        text = posixpath.join(self.text, name)
        return Address(text, self._files, posixpath.join(self._path, name))

    def matching(self) -> list["Address"]:
        """The files that a path with *, ? or [] stands for, sorted."""
        if self.local:
            return [
                Address.of(path) for path in sorted(glob.glob(self.text)) if os.path.isfile(path)
            ]
        with answering(self.text):
            paths = sorted(self._files.glob(self._path))
        return [Address.of(self._files.unstrip_protocol(path)) for path in paths]

    def is_file(self) -> bool:
        return self._files.isfile(self._path)

    def is_dir(self) -> bool:
        return self._files.isdir(self._path)

    def bytes(self) -> int:
        """Its size; -1 where it is not there, or not for us."""
        try:
            return int(self._files.info(self._path)["size"])
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return -1
        except OSError as error:
            if error.errno not in NAMELESS:
                raise
            return -1

    def open(self) -> Any:
        """The file, to be read as bytes."""
        if self.local:
            return self._files.open(self._path, "rb")
        with answering(self.text):
            return self._files.open(self._path, "rb")

    def read_text(self) -> str:
        """The text of a file in UTF-8, with or without its mark. InputError for another."""
        with self.open() as file:
            return decoded(file.read(), self.text)

    def below(self) -> dict[str, int]:
        """Bytes of all files below a folder, by their sorted path in it; hidden ones are left out.

        Links are followed; one that leads nowhere has -1.
        """
        found = self._walk() if self.local else self._find()
        names = {name: size for name, size in found if not _is_hidden(name)}
        return dict(sorted(names.items()))

    def _find(self) -> Iterator[tuple[str, int]]:
        with answering(self.text):
            found = self._files.find(self._path, detail=True)
        for path, entry in found.items():
            yield posixpath.relpath(path, self._path), int(entry["size"] or 0)

    def _walk(self) -> Iterator[tuple[str, int]]:
        seen: set[str] = set()
        for folder, folders, names in os.walk(self._path, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link to a folder above, or to one that was seen
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            for name in names:
                path = os.path.join(folder, name)
                size = os.stat(path).st_size if os.path.exists(path) else -1
                yield os.path.relpath(path, self._path), size


def is_remote(text: str) -> bool:
    """Whether a text is an address and no path of this machine."""
    return bool(_REMOTE.match(text))


class Part(io.RawIOBase):
    """A stretch of a file as a file of its own, read as it is asked for."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._place, self._size)[whence]
        self._place = max(base + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self._size - self._place), 0)
        self._file.seek(self._start + self._place)
        content = self._file.read(wanted)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_part(address: Address, start: int, size: int) -> BinaryIO:
    """`size` bytes of a file from `start`, as a file."""
    return cast(BinaryIO, io.BufferedReader(Part(address.open(), start, size)))


def decoded(content: bytes, where: str) -> str:
    """A text in UTF-8, with or without its mark. InputError for another."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is no UTF-8: save it as UTF-8") from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
