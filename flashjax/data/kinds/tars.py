"""Tar shards as webdataset writes them: files of one name before its first dot are one sample.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import BinaryIO

from flashjax.data.kinds.listed import Entry, Listed, captioned
from flashjax.data.kinds.manifest import CAPTIONS
from flashjax.data.pictures import SUFFIXES
from flashjax.types import InputError

MAX_TEXT = 2**20  # bytes of a caption's file: more is none


def is_tars(source: str) -> bool:
    """Whether a source is a tar or a pattern of them."""
    return source.endswith(".tar") or bool(re.search(r"\.tar\}?$", source))


def open_tars(source: str, empty: str) -> Listed:
    """The samples of all shards, which are indexed once and never unpacked. InputError for none."""
    paths = expand(source)
    entries = [entry for path in paths for entry in _entries(path)]
    if not entries:
        raise InputError(f"{source}: no shard holds a picture of {', '.join(SUFFIXES)}")
    return captioned(source, entries, empty)


def expand(pattern: str) -> list[Path]:
    """The files of a pattern with {000..127}, {a,b} or *. InputError for one that is missing."""
    paths: list[Path] = []
    for name in _braces(pattern):
        found = sorted(glob(name)) if any(mark in name for mark in "*?[") else [name]
        missing = [path for path in found if not Path(path).is_file()]
        if missing or not found:
            raise InputError(f"{missing[0] if missing else name} does not exist: no such shard")
        paths += map(Path, found)
    return paths


def _braces(pattern: str) -> list[str]:
    parts: list[list[str]] = []
    for text, inside in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", pattern):
        parts.append([text])
        if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
            first, last = numbers.groups()
            parts.append([f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)])
        elif inside:
            parts.append(inside.split(","))
    return list(dict.fromkeys("".join(chosen) for chosen in itertools.product(*parts)))


def _entries(path: Path) -> Iterator[Entry]:
    """One entry for each sample with a picture, in the shard's order."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    key, suffix = _key(member.name)
                    samples.setdefault(key, {})[suffix] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise InputError(f"{path} is cut short or broken: {error}; fetch it again") from error
    if not _ends(path):
        last = list(samples)[-1] if samples else "none"
        raise InputError(f"{path} is cut short after sample {last}: it has no end, fetch it again")
    for key, files in samples.items():
        picture = next((files[suffix] for suffix in SUFFIXES if suffix in files), None)
        if picture is None:
            continue
        where = f"{path.name}/{key}"
        yield Entry(where, _caption(path, files, where), _reader(path, *picture), str(picture[1]))


def _ends(path: Path) -> bool:
    """Whether a tar has its end, two blocks of zeros: one that was cut between files has none."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2 * tarfile.BLOCKSIZE, 0))
        tail = file.read()
    return len(tail) == 2 * tarfile.BLOCKSIZE and not any(tail)


def _key(name: str) -> tuple[str, str]:
    """The sample and the suffix of a member: "a/b.c.txt" is ".c.txt" of "a/b"."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _caption(path: Path, files: dict[str, tuple[int, int]], where: str) -> str:
    if ".txt" in files:
        return " ".join(_read(path, files[".txt"], where).split())
    if ".json" in files:
        try:
            content = json.loads(_read(path, files[".json"], where))
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}.json is no JSON") from error
        found = [content[name] for name in CAPTIONS if name in content]
        return " ".join(str(found[0]).split()) if found else ""
    return ""


def _read(path: Path, place: tuple[int, int], where: str) -> str:
    offset, size = place
    if size > MAX_TEXT:
        raise InputError(f"{where}: a caption of {size} bytes is none")
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise InputError(f"{path} is cut short in sample {where}: fetch it again")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: its caption is no UTF-8") from error


def _reader(path: Path, offset: int, size: int):
    def open_member() -> BinaryIO:
        with path.open("rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))

    return open_member
