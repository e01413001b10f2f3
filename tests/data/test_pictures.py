"""Pictures of every kind come as people see them."""

import io

import numpy as np
import pytest
from PIL import Image

from flashjax.data.pictures import read_picture, read_size
from flashjax.data.samples import Unreadable


def encoded(image: Image.Image, kind: str = "png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return lambda: io.BytesIO(buffer.getvalue())


def read(image: Image.Image, kind: str = "png", **options) -> np.ndarray:
    found = read_picture(encoded(image, kind, **options), "here.png")
    assert found.dtype == np.uint8 and found.shape[2] == 3
    assert read_size(encoded(image, kind, **options), "here.png") == found.shape[:2]
    return found


def colours(mode: str, value) -> Image.Image:
    return Image.new(mode, (6, 4), value)


@pytest.mark.parametrize(
    ("image", "options", "pixel"),
    [
        (colours("RGB", (10, 200, 30)), {}, (10, 200, 30)),
        (colours("L", 77), {}, (77, 77, 77)),
        (colours("1", 1), {}, (255, 255, 255)),
        (colours("RGBA", (255, 0, 0, 0)), {}, (255, 255, 255)),
        (colours("RGBA", (200, 0, 0, 128)), {}, (227, 127, 127)),
        (colours("LA", (0, 0)), {}, (255, 255, 255)),
        (colours("RGB", (10, 200, 30)).quantize(4), {}, (10, 200, 30)),
    ],
)
def test_the_pixel_is_what_a_person_sees(image, options, pixel):
    np.testing.assert_allclose(read(image, **options)[0, 0], pixel, atol=1)


def test_sixteen_bits_are_scaled_and_not_cut():
    deep = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    found = read(Image.fromarray(deep))
    np.testing.assert_allclose(found[..., 0], deep / 257.0, atol=0.51)


def test_cmyk_is_converted():
    image = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    found = read(image, "jpeg", quality=95)
    np.testing.assert_allclose(found[8, 8], image.convert("RGB").getpixel((8, 8)), atol=6)


def test_a_photograph_that_lies_on_its_side_is_turned_up():
    image = Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read(image, "png", exif=exif)
    np.testing.assert_array_equal(found, np.rot90(np.asarray(image), -1))


def test_of_an_animation_the_first_frame_is_taken():
    frames = [colours("RGB", (shade, 0, 0)) for shade in (10, 200)]
    found = read_picture(
        encoded(frames[0], "webp", save_all=True, append_images=frames[1:], lossless=True), "a.webp"
    )
    np.testing.assert_allclose(found[0, 0], (10, 0, 0), atol=2)


@pytest.mark.parametrize("content", [b"", b"no picture", b"<html>"])
def test_what_is_no_picture_is_named(content):
    for reader in (read_picture, read_size):
        with pytest.raises(Unreadable, match=r"some place\.png: "):
            reader(lambda: io.BytesIO(content), "some place.png")


def test_a_picture_cut_short_is_named():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = encoded(Image.fromarray(noise))().getvalue()
    with pytest.raises(Unreadable, match=r"half\.png: "):
        read_picture(lambda: io.BytesIO(whole[: len(whole) // 2]), "half.png")
