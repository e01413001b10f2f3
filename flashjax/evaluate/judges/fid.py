"""Inception as a judge: FID and KID from real pictures, or from the teacher's own (FID-T).

Source: Heusel et al. 2017, arXiv:1706.08500; Binkowski et al. 2018, arXiv:1801.01401; pictures are
resized as in Parmar et al. 2021, arXiv:2104.11222.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jax import Array

from flashjax.convert.inception import read_inception
from flashjax.evaluate.frechet import frechet
from flashjax.evaluate.judge import Figure, Needs
from flashjax.evaluate.judges.features import (
    Extractor,
    Reference,
    check_count,
    check_pictures,
    references,
)
from flashjax.evaluate.judges.figures import figure, note
from flashjax.evaluate.judges.pixels import Pixels, clean_pixels, tensorflow_pixels
from flashjax.evaluate.kernels import cubic, mmd
from flashjax.models.inception import SIDE, Inception
from flashjax.models.layers import apply
from flashjax.types import InputError, Params

NEEDS = Needs(
    weights="inception.safetensors: FID's InceptionV3, made once of torch-fidelity's "
    "weights-inception-2015-12-05-6726825d.pth",
    least=2,
)
RESIZES: dict[str, Pixels] = {"clean": clean_pixels, "tensorflow": tensorflow_pixels}
NOTE = (
    "FID is the Fréchet distance of Inception's pooled features ({resize} resize), KID their "
    "unbiased squared maximum mean discrepancy with a cubic kernel, times 1000; less is better. "
    "FID falls with the number of pictures: compare rows of equal numbers only."
)


class FidJudge:
    """FID and KID from each reference."""

    name = "fid"

    def __init__(self, extract: Extractor, compared: Sequence[Reference], resize: str) -> None:
        self._extract, self._compared = extract, compared
        self.note = note(NOTE.format(resize=resize), compared)

    def check(self, prompts: Sequence[str]) -> None:
        """InputError for a single picture: it has no distribution."""
        check_count(self.name, prompts, NEEDS.least)

    def judge(self, images: np.ndarray, prompts: Sequence[str]) -> tuple[Figure, ...]:
        """FID and KID from each reference; those from a teacher's pictures end in -T."""
        check_pictures(images, prompts)
        features = self._extract(images)
        return tuple(item for one in self._compared for item in _against(one, features))


def _against(reference: Reference, features: np.ndarray) -> Iterator[Figure]:
    yield figure(f"FID{reference.tag}", frechet(features, reference.features), better="less")
    paired = reference.pairs(features)
    kid = mmd(features, reference.features, cubic, paired=paired) * 1000
    yield figure(f"KID{reference.tag}", kid, better="less")


def open_fid(
    weights: Path,
    real: np.ndarray | None,
    *,
    teacher: np.ndarray | None = None,
    cache: Path | None = None,
    resize: str = "clean",
) -> FidJudge:
    """The judge with the network of a file or folder; pictures to compare with, uint8 "n H W 3".

    `resize` is "clean" or "tensorflow" (torch-fidelity's). Features of what it compares with are
    kept in `cache`. InputError without pictures, or for weights missing or another network's.
    """
    if real is None and teacher is None:
        raise InputError("the judge fid has nothing to compare with: give real pictures")
    if resize not in RESIZES:
        raise InputError(f"fid resize={resize}: choose {' or '.join(RESIZES)}")
    if not weights.exists():
        raise InputError(f"the judge fid needs {NEEDS.weights}; {weights} does not exist")
    extract = inception_extractor(read_inception(weights), resize)
    compared = references(extract, real=real, teacher=teacher, folder=cache)
    return FidJudge(extract, compared, resize)


def inception_extractor(params: Params, resize: str) -> Extractor:
    """The pooled features "n 2048" of pictures of any size, resized by a name of RESIZES."""

    def forward(params: Params, images: Array) -> Array:
        features, _ = apply(Inception(), params, images)
        return features

    prepare = lambda image: RESIZES[resize](image, SIDE)
    return Extractor(forward, params, prepare=prepare, name="inception", settings=resize)
