"""DINOv2 as a judge: distance from other pictures, precision, recall, diversity over seeds.

Source: Stein et al. 2023, arXiv:2306.04675.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jax import Array

from flashjax.convert.vit import read_dinov2
from flashjax.evaluate.frechet import frechet
from flashjax.evaluate.judge import Figure, Needs
from flashjax.evaluate.judges.features import (
    Extractor,
    Reference,
    check_count,
    check_pictures,
    references,
)
from flashjax.evaluate.judges.figures import check_folder, figure, note
from flashjax.evaluate.judges.pixels import dinov2_pixels
from flashjax.evaluate.neighbours import NEIGHBOURS, diversity, precision_recall
from flashjax.models.layers import apply
from flashjax.models.vit import ViT, ViTConfig
from flashjax.types import InputError, Params

NEEDS = Needs(
    weights="a folder of transformers' Dinov2Model (config.json, model.safetensors), such as "
    "facebook/dinov2-large"
)
SIDE = 224
NOTE = (
    "FD-DINOv2 is the Fréchet distance of the class tokens of DINOv2 ViT-{patch} of width {width} "
    "at {side} px; less is better. Precision is the share of pictures that lie among the compared "
    "ones, recall the share of those that lie among the pictures ({k} neighbours). Diversity is "
    "1 - cosine of pictures of one prompt, over its seeds, where prompts come twice. Intervals of "
    "recall and diversity are over the compared pictures and over the prompts."
)


class DinoJudge:
    """FD-DINOv2, precision and recall where there is something to compare with; diversity."""

    name = "dino"

    def __init__(
        self, extract: Extractor, config: ViTConfig, compared: Sequence[Reference] = ()
    ) -> None:
        self._extract, self._compared = extract, compared
        text = NOTE.format(patch=config.patch, width=config.width, side=SIDE, k=NEIGHBOURS)
        self.note = note(text, compared)

    def check(self, prompts: Sequence[str]) -> None:
        """InputError for prompts of which nothing could be said."""
        if self._compared:
            check_count(self.name, prompts, NEIGHBOURS + 1)
        elif len(set(prompts)) == len(prompts):
            raise InputError(
                "the judge dino has nothing to compare with and no prompt comes twice: "
                "give real pictures, or several seeds of a prompt"
            )

    def judge(self, images: np.ndarray, prompts: Sequence[str]) -> tuple[Figure, ...]:
        """Three figures for each reference, and diversity where prompts repeat."""
        check_pictures(images, prompts)
        features = self._extract(images)
        found = [item for reference in self._compared for item in _against(reference, features)]
        spread = diversity(features, prompts)
        if spread is not None:
            found.append(figure("diversity", spread, decimals=3))
        return tuple(found)


def _against(reference: Reference, features: np.ndarray) -> Iterator[Figure]:
    yield figure(
        f"FD-DINOv2{reference.tag}",
        frechet(features, reference.features),
        better="less",
        decimals=1,
    )
    precision, recall = precision_recall(features, reference.features)
    yield figure(f"precision{reference.tag}", precision * 100, unit="%", decimals=1)
    yield figure(f"recall{reference.tag}", recall * 100, unit="%", decimals=1)


def open_dino(
    weights: Path,
    real: np.ndarray | None,
    *,
    teacher: np.ndarray | None = None,
    cache: Path | None = None,
) -> DinoJudge:
    """The judge with the DINOv2 of a folder; `real` and `teacher` are pictures uint8 "n H W 3".

    Their features are kept in `cache`. InputError for weights that are missing or another model's.
    """
    check_folder("dino", NEEDS, weights)
    params, config = read_dinov2(weights)
    extract = dinov2_extractor(params, config)
    compared = references(extract, real=real, teacher=teacher, folder=cache, least=NEIGHBOURS + 1)
    return DinoJudge(extract, config, compared)


def dinov2_extractor(params: Params, config: ViTConfig) -> Extractor:
    """The class tokens "n d" of pictures at 224 px."""
    if SIDE % config.patch:
        raise InputError(f"DINOv2 with patches of {config.patch} px does not divide {SIDE} px")

    def forward(params: Params, pixels: Array) -> Array:
        return apply(ViT(config), params, pixels)

    prepare = lambda image: dinov2_pixels(image, SIDE)
    return Extractor(forward, params, prepare=prepare, name="dinov2", settings=f"{config}")
