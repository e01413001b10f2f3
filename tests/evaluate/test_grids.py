"""Grids hold every picture where it belongs; PNGs bring back pixels and text."""

import io

import numpy as np
import pytest
from PIL import Image

from flashjax.evaluate.grids import GAP, GAP_SHADE, grid, png_bytes, save_png


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
