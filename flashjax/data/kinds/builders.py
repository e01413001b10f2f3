"""Datasets that tensorflow-datasets built: read as random access, without TensorFlow.

Source: https://www.tensorflow.org/datasets/data_source.
"""

import functools
import hashlib
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashjax.data.files import Address, decoded
from flashjax.data.kinds.listed import CAPTIONS, PICTURES, Wording, texts_of
from flashjax.data.kinds.manifest import column_of
from flashjax.data.pictures import read_picture, read_size
from flashjax.data.samples import Sample
from flashjax.types import InputError

PREFIX = "tfds:"
FILES = ("features.json", "dataset_info.json")
TRAIN = "train"
KEPT = 4  # examples in memory: a picture's size and the picture are asked for one after the other
# NAME, NAME/CONFIG, with :VERSION and :SPLIT behind.
_NAMED = re.compile(r"(?P<name>\w+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")


class Built:
    """One split of a built dataset as samples; an example is read when it is asked for."""

    def __init__(self, builder: Any, split: str, wording: Wording) -> None:
        info = builder.info
        self.name = f"{PREFIX}{info.full_name}:{split}"
        self._picture, self._caption = _features(self.name, info.features, wording)
        self._names = getattr(info.features[self._caption], "names", None) if self._caption else ()
        self._source, self._wording = _source(builder, split, self._picture), wording
        self._example = functools.lru_cache(maxsize=KEPT)(lambda index: self._source[index])
        shards = {name: (s.shard_lengths, s.num_bytes) for name, s in info.splits.items()}
        told = f"{self.name} {len(self)} {sorted(shards.items())} {wording}"
        self.digest = hashlib.sha256(told.encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> Sample:
        example, where = self._example(index), f"{self.name}[{index}]"
        picture = example[self._picture]
        if isinstance(picture, bytes):
            picture = read_picture(lambda: io.BytesIO(picture), where)
        return Sample(picture, self._wording.checked(self._texts(example, where), index, where))

    def size(self, index: int, /) -> tuple[int, int]:
        """Height and width."""
        picture = self._example(index)[self._picture]
        if isinstance(picture, bytes):
            return read_size(lambda: io.BytesIO(picture), f"{self.name}[{index}]")
        return picture.shape[0], picture.shape[1]

    def _texts(self, example: dict[str, Any], where: str) -> tuple[str, ...]:
        if not self._caption:
            return ()
        value = example[self._caption]
        if self._names is not None:  # of a class; -1 is none
            return (self._names[value].replace("_", " "),) if value >= 0 else ()
        if isinstance(value, dict):  # several captions, each with fields of its own
            value = value[column_of(where, list(value), CAPTIONS)]
        cells = np.asarray(value, object).ravel()  # a text, or several of any shape
        return texts_of([decoded(c, where) if isinstance(c, bytes) else c for c in cells], where)


def is_built(folder: Address) -> bool:
    """Whether a folder is a version of a dataset that tensorflow-datasets wrote."""
    return all(folder.within(name).is_file() for name in FILES)


def open_built(folder: Address, split: str, wording: Wording) -> Built:
    """A split of the dataset in a folder: "train" unless another is given."""
    import tensorflow_datasets as tfds

    return Built(tfds.builder_from_directory(str(folder)), split or TRAIN, wording)


def open_named(source: str, wording: Wording) -> Built | None:
    """The dataset "NAME[/CONFIG][:VERSION][:SPLIT]" in TFDS_DATA_DIR; None if it is not there.

    Nothing is downloaded.
    """
    named = _NAMED.fullmatch(source.removeprefix(PREFIX))
    if named is None:
        return None
    from tensorflow_datasets.core import read_only_builder, registered

    try:
        builder = read_only_builder.builder_from_files(named["name"])
    except registered.DatasetNotFoundError:
        return None
    return Built(builder, named["split"] or TRAIN, wording)


def refuse_named(source: str) -> InputError:
    """What to say of a name that is not there."""
    from tensorflow_datasets.core import constants

    return InputError(
        f"{source} is not in {constants.DATA_DIR} (TFDS_DATA_DIR): build it with "
        f"tfds.builder(NAME, file_format='array_record').download_and_prepare()"
    )


def _source(builder: Any, split: str, picture: str) -> Sequence[dict[str, Any]]:
    from tensorflow_datasets import decode, features

    raw = isinstance(builder.info.features[picture], features.Image)
    decoders = {picture: decode.SkipDecoding()} if raw else None
    try:
        return builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise InputError(
            f"{builder.info.full_name} is kept as {builder.info.file_format.value}: build it anew "
            f"with file_format='array_record'"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{builder.info.full_name}: {split!r} is no split: choose of "
            f"{', '.join(builder.info.splits)}"
        ) from error


def _features(where: str, found: Any, wording: Wording) -> tuple[str, str]:
    """The names of the features that are pictures and captions; labels are captions, too.

    Captions that nobody reads are those of the feature "".
    """
    from tensorflow_datasets import features

    def is_picture(feature: Any) -> bool:
        return isinstance(feature, features.Image) or (
            feature.np_dtype == np.uint8 and len(feature.shape) == 3 and feature.shape[2] == 3
        )

    pictures = [name for name, feature in found.items() if is_picture(feature)]
    usual = [name for name in PICTURES if name in pictures]
    picture = next(iter([*usual, *pictures]), None) or column_of(where, list(found), PICTURES)
    if wording.unread:
        return picture, ""
    labels = [n for n, feature in found.items() if isinstance(feature, features.ClassLabel)]
    caption = next(iter([*(name for name in CAPTIONS if name in found), *labels]), None)
    return picture, caption or column_of(where, list(found), CAPTIONS)
