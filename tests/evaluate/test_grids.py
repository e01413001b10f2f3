"""Grids hold every picture where it belongs; PNGs bring back pixels and text."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from flashjax.evaluate.grids import (
    GAP,
    GAP_SHADE,
    grid,
    labelled,
    parameters,
    png_bytes,
    save_png,
)


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 4, 4), (3, 1, 2, 6)])
def test_grid_holds_every_picture_in_its_place(shape):
    images = random_images(*shape)
    rows, columns, height, width = shape
    picture = grid(images)
    assert picture.shape == (
        rows * height + (rows - 1) * GAP,
        columns * width + (columns - 1) * GAP,
        3,
    )
    rest = picture.copy()
    for row in range(rows):
        for column in range(columns):
            y, x = row * (height + GAP), column * (width + GAP)
            tile = (slice(y, y + height), slice(x, x + width))
            np.testing.assert_array_equal(picture[tile], images[row, column])
            rest[tile] = GAP_SHADE
    assert (rest == GAP_SHADE).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 1, 4, 4, 3), np.float32),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 1, 4, 4, 3), np.uint8),
    ],
)
def test_grid_refuses_what_is_no_table_of_pictures(images):
    with pytest.raises(ValueError, match="need uint8"):
        grid(images)


def test_png_brings_back_pixels_and_text(tmp_path):
    picture = random_images(6, 7)
    text = {"prompt": "a red seven, très rouge", "seed": "3"}
    assert png_bytes(picture, text=text) == png_bytes(picture, text=text)
    save_png(tmp_path / "new" / "a.png", picture, text=text)
    for source in (io.BytesIO(png_bytes(picture, text=text)), tmp_path / "new" / "a.png"):
        with Image.open(source) as image:
            np.testing.assert_array_equal(np.asarray(image), picture)
            assert image.text == text


def test_a_labelled_grid_has_its_labels_beside_the_pictures():
    images = random_images(2, 3, 40, 30)
    page = labelled(images, rows=["a", "longer"], columns=["1", "2", "steps 28"])
    whole = page.astype(int)
    for row, column in np.ndindex(2, 3):  # every picture is there, whole
        windows = np.lib.stride_tricks.sliding_window_view(whole, (40, 30, 3))[:, :, 0]
        assert (windows == images[row, column]).all(axis=(2, 3, 4)).sum() == 1
    bare = labelled(images, rows=["", ""], columns=["1", "2", "steps 28"])
    assert bare.shape[0] == page.shape[0] and bare.shape[1] < page.shape[1]


@pytest.mark.parametrize("prompt", ["a red seven", "two\nlines, and: more"])
def test_parameters_are_what_web_uis_read(prompt):
    """By the rules that ComfyUI's importer goes by: the last such lines, then name: value pairs."""
    settings = {"Steps": 4, "Sampler": "DPM++ 2M", "Model": "a, b: c", "Size": "64x128"}
    text = parameters(prompt, "ugly", settings)
    steps = text.rindex("\nSteps:")
    negative = text.rindex("\nNegative prompt:", 0, steps)
    assert text[:negative] == prompt
    assert text[negative + len("\nNegative prompt:") : steps].strip() == "ugly"
    pairs = re.findall(r'\s*([^:,]+):\s*("(?:\\.|[^"])*"|[^,]*)(?:,|$)', text[steps + 1 :])
    assert {name: value.strip('"') for name, value in pairs} == {
        name: str(value) for name, value in settings.items()
    }
