"""PickScore is what transformers' CLIPModel gives as its scaled logits."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flashjax.evaluate.judges.pick import open_pick
from flashjax.types import InputError

PROMPTS = ["a red seven", "blue three left of green one", "a blue one"]


def test_it_is_the_logit_of_every_picture_and_its_prompt(clip_folder, pictures):
    folder = clip_folder("gelu")
    images = pictures(3)
    model, tokenize = (
        CLIPModel.from_pretrained(folder).eval(),
        CLIPTokenizer.from_pretrained(folder),
    )
    process = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
    with torch.no_grad():
        logits = model(
            **tokenize(PROMPTS, padding="max_length", return_tensors="pt"),
            pixel_values=process(list(images), return_tensors="pt")["pixel_values"],
        ).logits_per_image
    judge = open_pick(folder)
    judge.check(PROMPTS)
    with pytest.raises(InputError, match=r"pick scores .*, and 1 of 2 are empty"):
        judge.check(["red", " "])
    (figure,) = judge.judge(images, PROMPTS)
    expected = np.diag(logits.numpy())
    assert figure.value == pytest.approx(expected.mean(), abs=1e-4)
    assert figure.name == "PickScore" and figure.error > 0 and np.ptp(expected) > 0.05


def test_openais_clip_is_not_taken_for_it(clip_folder, tmp_path):
    with pytest.raises(InputError, match="hidden_act is 'quick_gelu': that is OpenAI's CLIP"):
        open_pick(clip_folder("quick_gelu"))
    with pytest.raises(InputError, match="judge pick needs the folder of PickScore"):
        open_pick(tmp_path)
