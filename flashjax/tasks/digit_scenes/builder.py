"""The dataset `digit_scenes`: composed scenes on disk, built and read without TensorFlow."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from flashjax.data.cache import writing_records
from flashjax.data.samples import Sample, Samples
from flashjax.tasks.digit_scenes.captions import BACKGROUNDS, COLOURS
from flashjax.tasks.digit_scenes.digits import SPLITS
from flashjax.tasks.digit_scenes.scenes import SIDE, compose
from flashjax.types import InputError


@dataclass(eq=False)
class ScenesConfig(tfds.core.BuilderConfig):
    """Which scenes: the seed, and how many of each split (from index 0)."""

    seed: int = 0
    train: int = 1
    validation: int = 1


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits of scikit-learn in coloured scenes, each with a caption."""

    VERSION = tfds.core.Version("1.0.0")
    name = "digit_scenes"
    code_path = None  # where checksums of downloads would lie; finding it needs another package

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=(
                f"One or two real handwritten digits in {len(COLOURS)} colours on "
                f"{len(BACKGROUNDS)} grounds; `index` is the example's number in its split."
            ),
            features=tfds.features.FeaturesDict(
                {
                    # Raw bytes: as integers or PNG, writing would cost more than composing.
                    "image": tfds.features.Tensor(
                        shape=(SIDE, SIDE, 3), dtype=np.uint8, encoding="bytes"
                    ),
                    "caption": tfds.features.Text(),
                    "index": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            disable_shuffling=True,  # keeps the order of the index; every scene is drawn alone
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        for index in range(getattr(config, split)):
            example = compose(config.seed, index, split)
            yield index, {"image": example.image, "caption": example.caption, "index": index}


def open_scenes(
    data_dir: Path, *, seed: int, train: int, validation: int
) -> dict[str, Sequence[dict[str, Any]]]:
    """The scenes of each split as random-access sources, composed and written if not yet there.

    An element is {"image": uint8 "64 64 3", "caption": bytes, "index": int64}. The files are
    renamed into place when the last one is whole, so a preparation that was killed starts anew.
    Raises InputError for a number of scenes below 1.
    """
    for split, count in (("train", train), ("validation", validation)):
        if count < 1:
            raise InputError(f"scenes: {split} = {count}; at least 1 scene is needed")
    config = ScenesConfig(
        name=f"seed{seed}_{train}_{validation}", seed=seed, train=train, validation=validation
    )
    builder = DigitScenes(data_dir=str(data_dir), config=config, file_format="array_record")
    with writing_records(data_dir):
        builder.download_and_prepare()
    return {split: builder.as_data_source(split) for split in SPLITS}


class StoredScenes:
    """One split of `open_scenes` as samples."""

    def __init__(self, name: str, source: Sequence[dict[str, Any]]) -> None:
        self.name, self._source = name, source
        self.digest = hashlib.sha256(
            f"{name} {len(source)} {DigitScenes.VERSION}".encode()
        ).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> Sample:
        example = self._source[index]
        return Sample(example["image"], example["caption"].decode())

    def size(self, index: int, /) -> tuple[int, int]:
        """Every scene has the same."""
        return SIDE, SIDE


def open_samples(folder: Path, *, seed: int, train: int, validation: int) -> dict[str, Samples]:
    """The samples of both splits, kept in `folder`. InputError for fewer than one of each."""
    scenes = open_scenes(folder, seed=seed, train=train, validation=validation)
    return {
        split: StoredScenes(f"digit_scenes {split} (seed={seed})", source)
        for split, source in scenes.items()
    }


class ComposedScenes:
    """Validation scenes of a seed, composed as they are asked for."""

    def __init__(self, count: int, seed: int) -> None:
        self.name = f"digit_scenes unseen (seed={seed})"
        self.digest = hashlib.sha256(f"{self.name} {count}".encode()).hexdigest()[:12]
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Sample:
        example = compose(self._seed, index, "validation")
        return Sample(example.image, example.caption)

    def size(self, index: int, /) -> tuple[int, int]:
        """Every scene has the same."""
        return SIDE, SIDE


def unseen(count: int, seed: int) -> Samples:
    """`count` scenes that no training saw."""
    return ComposedScenes(count, seed)
