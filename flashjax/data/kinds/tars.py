"""Tar shards as webdataset writes them: files of one name before its first dot are one sample.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import functools
import io
import itertools
import json
import logging
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from flashjax.data.files import Address, decoded, open_part
from flashjax.data.kinds.listed import (
    CAPTIONS,
    Entry,
    Listed,
    Wording,
    captioned,
    first_of,
    texts_of,
)
from flashjax.data.pictures import SUFFIXES
from flashjax.types import InputError

SUFFIX = ".tar"
TEXTS = (".txt", ".json")
MAX_TEXT = 2**20  # bytes of a caption's file: more is none

log = logging.getLogger(__name__)

Member = tuple[str, str, tarfile.TarInfo]  # sample, suffix, where it lies


def is_tars(source: str) -> bool:
    """Whether a source is a tar or a pattern of them."""
    return bool(re.search(r"\.tar\}?$", source))


def open_tars(name: str, shards: Sequence[Address], wording: Wording) -> Listed:
    """The samples of all shards, which are indexed once and never unpacked. InputError for none."""
    entries = [entry for shard in shards for entry in _entries(shard, wording)]
    if not entries:
        raise InputError(f"{name}: no shard holds a picture of {', '.join(SUFFIXES)}")
    return captioned(name, entries, wording)


def _entries(shard: Address, wording: Wording) -> list[Entry]:
    """One entry for each sample with a picture, in the shard's order."""
    entries, bare = [], []
    with shard.open() as file:
        for key, group in itertools.groupby(_members(shard, file), key=lambda member: member[0]):
            where, found = f"{shard.name}/{key}", _by_suffix(shard, group)
            picture = next((found[suffix] for suffix in SUFFIXES if suffix in found), None)
            if picture is None:
                bare.append(f"{where} has {' '.join(found)}")
                continue
            opener = functools.partial(open_part, shard, picture.offset_data, picture.size)
            captions = () if wording.unread else _captions(file, found, where)
            entries.append(Entry(where, captions, opener, str(picture.size)))
    if bare:
        log.warning("%s: %d samples have no picture (%s)", shard, len(bare), first_of(bare))
    return entries


def _by_suffix(shard: Address, members: Iterable[Member]) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for key, suffix, info in members:
        if suffix in found:
            raise InputError(f"{shard} has {key}{suffix} twice: write each file once")
        found[suffix] = info
    return found


def _members(shard: Address, file: BinaryIO) -> Iterator[Member]:
    """The files of a tar. InputError for one that is cut short, with its last whole sample.

    Hidden ones are left out, as in folders: a Mac packs "._a.jpg" between "a.jpg" and "a.txt".
    A link, hard or symbolic, is the file before it that it names. InputError for a picture or a
    caption that is a link to anything else.
    """
    keys: list[str] = []
    files: dict[str, tarfile.TarInfo] = {}
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                key, suffix = _key(info.name)
                if info.offset_data + info.size > size:
                    raise _cut(shard, [whole for whole in keys if whole != key])
                held = info if info.isfile() else files.get(_target(info))
                if held is not None:
                    files[posixpath.normpath(info.name)] = held
                    if not posixpath.basename(key):
                        continue
                    keys = [*keys[-1:], key] if key not in keys[-1:] else keys
                    yield key, suffix, held
                elif suffix in (*SUFFIXES, *TEXTS) and (info.islnk() or info.issym()):
                    raise InputError(
                        f"{shard} has {info.name} as a link to {info.linkname}, no file before it: "
                        "pack the files themselves (tar --dereference --hard-dereference)"
                    )
            end = tar.offset
    except tarfile.TarError as error:
        if not keys:
            raise InputError(f"{shard} is no tar ({error}): packed ones are not read") from error
        raise _cut(shard, keys) from error
    if not _ends(file, end):
        raise _cut(shard, keys)


def _cut(shard: Address, whole: list[str]) -> InputError:
    last = f"its last whole sample is {whole[-1]}" if whole else "it has no whole sample"
    return InputError(f"{shard} is cut short or broken: {last}; fetch it again")


def _ends(file: BinaryIO, place: int) -> bool:
    """Whether the block of zeros that ends a tar lies there: one that was cut has none."""
    file.seek(place)
    block = file.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _target(info: tarfile.TarInfo) -> str:
    """The file of its tar that a member names; none for what is no link."""
    beside = posixpath.dirname(info.name) if info.issym() else ""
    return posixpath.normpath(posixpath.join(beside, info.linkname)) if info.linkname else ""


def _key(name: str) -> tuple[str, str]:
    """The sample and the suffix of a member: "a/b.c.txt" is ".c.txt" of "a/b"."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _captions(file: BinaryIO, found: dict[str, tarfile.TarInfo], where: str) -> tuple[str, ...]:
    if ".txt" in found:
        return texts_of(_text(file, found[".txt"], where), where)
    if ".json" not in found:
        return ()
    try:
        content = json.loads(_text(file, found[".json"], where))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}.json is no JSON") from error
    if not isinstance(content, dict):
        raise InputError(f"{where}.json is no object: write one with {' or '.join(CAPTIONS)}")
    return next((texts_of(content[name], where) for name in CAPTIONS if name in content), ())


def _text(file: BinaryIO, info: tarfile.TarInfo, where: str) -> str:
    if info.size > MAX_TEXT:
        raise InputError(f"{where}: a caption of {info.size} bytes is none")
    file.seek(info.offset_data)
    return decoded(file.read(info.size), f"{where}: its caption")
