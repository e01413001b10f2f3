"""Pictures are resized as each network's own processor does it: transformers and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flashjax.evaluate.judges.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    clean_pixels,
    clip_pixels,
    dinov2_pixels,
    tensorflow_pixels,
)

SIZES = [(512, 512), (300, 451), (451, 300), (224, 224), (64, 90), (1024, 640)]


def picture(size):
    """Noise over a slope: it uses all values, and edges that are sharp."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 120, (height, width, 3))
    return (noise + np.linspace(0, 135, width)[None, :, None]).astype(np.uint8)


def first(batch):
    return np.moveaxis(np.asarray(batch["pixel_values"][0]), 0, -1)


@pytest.mark.parametrize("size", SIZES)
def test_clips_pixels_are_its_processors(size):
    image = picture(size)
    for side in (224, 336):
        process = CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
        np.testing.assert_allclose(clip_pixels(image, side), first(process(image)), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_dinov2s_pixels_are_a_processors_that_squeezes(size):
    process = BitImageProcessorPil(
        size={"height": 224, "width": 224},
        do_center_crop=False,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    image = picture(size)
    np.testing.assert_allclose(dinov2_pixels(image, 224), first(process(image)), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_clean_pixels_are_torchs_bicubic_with_antialiasing(size):
    image = picture(size)
    floats = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    theirs = F.interpolate(floats, (299, 299), mode="bicubic", antialias=True)
    theirs = ((theirs.clamp(0, 255) - 128) / 128)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(clean_pixels(image, 299), theirs, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_tensorflow_pixels_are_samples_between_neighbours(size):
    """`grid_sample` at the places that TensorFlow 1 takes: i times inputs / outputs."""
    image = picture(size)
    places = [np.arange(299) * n / 299 * 2 / (n - 1) - 1 for n in size]
    grid = np.stack(np.meshgrid(places[1], places[0]), -1)[None]
    floats = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    theirs = F.grid_sample(
        floats, torch.from_numpy(grid), padding_mode="border", align_corners=True
    )
    theirs = ((theirs - 128) / 128)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(tensorflow_pixels(image, 299), theirs, atol=2e-4)
