"""Captions with the pictures that a teacher drew for them: tars of `SHARD` samples, in order.

Letters: n samples, H W pixels.
"""

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flashjax.data.files import Address
from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.tars import open_tars
from flashjax.data.samples import Samples, Unreadable
from flashjax.types import InputError

SHARD = 256  # samples of a tar: what a drawing that is stopped may lose


def is_undrawn(samples: Samples) -> bool:
    """Whether samples are captions alone; a picture that cannot be read is one."""
    try:
        return len(samples) > 0 and samples.size(0) is None
    except Unreadable:
        return False


def shards_of(folder: Path, count: int) -> dict[Path, range]:
    """The tars of `count` samples, and which of them are in each."""
    return {
        folder / f"{number:05}.tar": range(first, min(first + SHARD, count))
        for number, first in enumerate(range(0, count, SHARD))
    }


def write_shard(path: Path, first: int, captions: Sequence[str], images: np.ndarray) -> None:
    """A tar of pictures uint8 "n H W 3" with their captions, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with tarfile.open(draft, "w") as tar:
        for index, (caption, image) in enumerate(zip(captions, images, strict=True), start=first):
            for suffix, content in ((".png", _png(image)), (".txt", caption.encode())):
                info = tarfile.TarInfo(f"{index:08}{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    draft.replace(path)


def with_pictures(parts: Mapping[str, Samples], folder: Path, number: int) -> dict[str, Samples]:
    """Samples by split, source `number` of a run; captions alone have what was drawn for them.

    InputError for pictures that are not drawn yet.
    """
    return {
        split: _drawn(samples, place_of(folder, number, split)) if is_undrawn(samples) else samples
        for split, samples in parts.items()
    }


def place_of(folder: Path, number: int, split: str) -> Path:
    """Where the pictures of a split of source `number` lie."""
    return folder / f"{number}-{split}"


def _drawn(samples: Samples, folder: Path) -> Samples:
    shards = shards_of(folder, len(samples))
    missing = [path for path in shards if not path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]} is not there: run prepare, which draws what is missing; after it has, "
            f"delete {folder.parent} to have all drawn anew"
        )
    name = f"{samples.name}, drawn"
    return open_tars(name, [Address.of(path) for path in shards], Wording())


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)  # what is drawn is read soon
    return buffer.getvalue()
