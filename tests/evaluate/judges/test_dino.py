"""DINOv2's figures on the features that transformers' model gives of its processor's pixels."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics.pairwise import cosine_distances
from transformers import Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from flashjax.evaluate.judges.dino import open_dino
from flashjax.evaluate.judges.pixels import IMAGENET_MEAN, IMAGENET_STD
from flashjax.types import InputError


def transformers_features(folder, images):
    process = BitImageProcessorPil(
        size={"height": 224, "width": 224},
        do_center_crop=False,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    pixels = process(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        model = Dinov2Model.from_pretrained(folder).eval()
        return model(pixels).pooler_output.double().numpy()


def distance(x, y):
    """The Fréchet distance by scipy's matrix root."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = scipy.linalg.sqrtm(a @ b).real
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * cross)


def test_figures_are_those_of_transformers_features(dinov2_folder, pictures):
    images, real = pictures(30), pictures(40, seed=1) // 2
    prompts = [f"prompt {i // 2}" for i in range(30)]
    judge = open_dino(dinov2_folder, real)
    judge.check(prompts)
    figures = {figure.name: figure for figure in judge.judge(images, prompts)}
    assert list(figures) == ["FD-DINOv2", "precision", "recall", "diversity"]
    seen, known = (transformers_features(dinov2_folder, set_) for set_ in (images, real))
    expected = distance(seen, known)
    assert figures["FD-DINOv2"].value == pytest.approx(expected, rel=1e-4) and expected > 0.5
    pairs = [cosine_distances(seen[i : i + 1], seen[i + 1 : i + 2])[0, 0] for i in range(0, 30, 2)]
    assert figures["diversity"].value == pytest.approx(np.mean(pairs), abs=1e-5)
    assert figures["precision"].unit == figures["recall"].unit == "%"
    assert all(figure.error is not None for figure in figures.values())


def test_a_set_against_itself_is_at_zero_with_all_precision(dinov2_folder, pictures):
    images = pictures(20)
    judge = open_dino(dinov2_folder, None, teacher=images)
    assert "20 pictures of the teacher" in judge.note
    far, precision, recall = judge.judge(images, [f"{i}" for i in range(20)])
    assert far.name == "FD-DINOv2-T" and far.value == pytest.approx(0, abs=1e-6)
    assert precision.value == recall.value == 100


def test_prompts_that_it_can_say_nothing_of_are_refused(dinov2_folder, pictures, tmp_path):
    judge = open_dino(dinov2_folder, None)
    judge.check(["a", "a"])
    with pytest.raises(InputError, match="nothing to compare with and no prompt comes twice"):
        judge.check(["a", "b"])
    with pytest.raises(InputError, match="dinov2 needs 4 real pictures, 3 given"):
        open_dino(dinov2_folder, pictures(3))
    with pytest.raises(InputError, match="judge dino needs 4 pictures, 3 are to be drawn"):
        open_dino(dinov2_folder, pictures(4)).check(["a", "b", "c"])
    with pytest.raises(InputError, match=r"judge dino needs a folder of transformers' Dinov2Model"):
        open_dino(tmp_path, None)
