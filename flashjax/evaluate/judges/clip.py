"""CLIP as a judge: how well pictures fit their prompts, and how far they are from others.

Source: Hessel et al. 2021, arXiv:2104.08718, in the form without rescaling (torchmetrics'
`CLIPScore`); CMMD: Jayasumana et al. 2024, arXiv:2401.09603.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flashjax.convert.vit import read_clip_model
from flashjax.evaluate.estimates import mean_of
from flashjax.evaluate.judge import Figure, Needs
from flashjax.evaluate.judges.features import (
    Reference,
    check_count,
    check_pictures,
    check_said,
    references,
)
from flashjax.evaluate.judges.figures import check_folder, figure, note
from flashjax.evaluate.judges.towers import Towers
from flashjax.evaluate.kernels import gaussian, mmd

NEEDS = Needs(
    weights="a folder of transformers' CLIPModel (config.json, model.safetensors, tokenizer.json), "
    "such as openai/clip-vit-large-patch14",
    said=True,
)
SIGMA, SCALE = 10.0, 1000.0  # of CMMD: the kernel's width, and what makes it easy to read
NOTE = (
    "CLIP score is 100 times the cosine of picture and prompt by CLIP ViT-{patch} of width {width} "
    "at {side} px; more is better. CMMD is the unbiased squared maximum mean discrepancy of the "
    "same CLIP's unit vectors (Gaussian of width 10, times 1000); less is better."
)


class ClipJudge:
    """CLIP score; CMMD where there are pictures to compare with."""

    name = "clip"

    def __init__(self, towers: Towers, compared: Sequence[Reference] = ()) -> None:
        self._towers, self._compared = towers, compared
        config = towers.config
        sizes = {"patch": config.patch, "width": config.width, "side": config.side}
        self.note = note(NOTE.format(**sizes), compared)

    def check(self, prompts: Sequence[str]) -> None:
        """InputError for an empty prompt, and for a single picture where CMMD is asked for."""
        check_said(self.name, prompts)
        check_count(self.name, prompts, 2 if self._compared else 1)

    def judge(self, images: np.ndarray, prompts: Sequence[str]) -> tuple[Figure, ...]:
        """CLIP score, and CMMD from each reference."""
        check_pictures(images, prompts)
        pictures = self._towers.pictures(images)
        score = mean_of(100.0 * (pictures * self._towers.texts(prompts)).sum(1))
        distance = functools.partial(mmd, pictures, kernel=gaussian(SIGMA))
        distances = [
            (f"CMMD{one.tag}", distance(one.features, paired=one.pairs(pictures)) * SCALE)
            for one in self._compared
        ]
        return (
            figure("CLIP score", score),
            *(figure(name, found, better="less", decimals=3) for name, found in distances),
        )


def open_clip(
    weights: Path,
    real: np.ndarray | None,
    *,
    teacher: np.ndarray | None = None,
    cache: Path | None = None,
) -> ClipJudge:
    """The judge with the CLIP of a folder; `real` and `teacher` are pictures uint8 "n H W 3".

    Their features are kept in `cache`. InputError for weights that are missing or another model's.
    """
    check_folder("clip", NEEDS, weights)
    towers = Towers(read_clip_model(weights), weights)
    compared = references(towers.pictures, real=real, teacher=teacher, folder=cache)
    return ClipJudge(towers, compared)
