"""PickScore as a judge: which picture of a prompt people would pick.

Source: Kirstain et al. 2023, arXiv:2305.01569: a CLIP ViT-H/14 that was trained on choices.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flashjax.convert.vit import read_clip_model
from flashjax.evaluate.estimates import mean_of
from flashjax.evaluate.judge import Figure, Needs
from flashjax.evaluate.judges.features import check_pictures, check_said
from flashjax.evaluate.judges.figures import check_folder, figure, note
from flashjax.evaluate.judges.towers import Towers
from flashjax.types import InputError

NEEDS = Needs(
    weights="the folder of PickScore, a CLIPModel (config.json, model.safetensors, and "
    "tokenizer.json of CLIP ViT-H/14), such as yuvalkirstain/PickScore_v1",
    said=True,
)
NOTE = (
    "PickScore is the scaled cosine of picture and prompt by a CLIP ViT-H/14 that was trained on "
    "people's choices: a difference of 1 is a preference of 73 %; more is better."
)


class PickJudge:
    """The mean PickScore."""

    name = "pick"

    def __init__(self, towers: Towers) -> None:
        self._towers, self.note = towers, note(NOTE)

    def check(self, prompts: Sequence[str]) -> None:
        """InputError for an empty prompt; any other can be judged."""
        check_said(self.name, prompts)

    def judge(self, images: np.ndarray, prompts: Sequence[str]) -> tuple[Figure, ...]:
        """PickScore as one figure."""
        check_pictures(images, prompts)
        cosines = (self._towers.pictures(images) * self._towers.texts(prompts)).sum(1)
        return (figure("PickScore", mean_of(self._towers.scale * cosines)),)


def open_pick(weights: Path) -> PickJudge:
    """The judge with the CLIP of a folder; it compares with nothing.

    InputError for weights that are missing or another model's.
    """
    check_folder("pick", NEEDS, weights)
    model = read_clip_model(weights)
    if model.vision_config.activation != "gelu":
        raise InputError(
            f"{weights}/config.json: hidden_act is {model.vision_config.activation!r}: that is "
            f"OpenAI's CLIP, PickScore has 'gelu'; give {NEEDS.weights}"
        )
    return PickJudge(Towers(model, weights))
