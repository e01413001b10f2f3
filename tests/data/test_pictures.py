"""Pictures of every kind come as people see them."""

import errno
import io
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from flashjax.data import pictures
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


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_photograph_is_what_pillow_decodes(name, kind):
    image = Image.fromarray(load_sample_image(name))
    expected = np.asarray(Image.open(encoded(image, kind)()))
    np.testing.assert_array_equal(read(image, kind), expected)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_size_is_that_of_the_picture_whatever_exif_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    read(Image.fromarray(load_sample_image("china.jpg")[:48, :64]), kind, exif=exif)


def test_exif_behind_the_pixels_of_a_png_counts():
    image = Image.fromarray(load_sample_image("china.jpg")[:48, :64])
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(image, exif=exif)().getvalue()
    start = content.index(b"eXIf") - 4
    stop = start + struct.unpack(">I", content[start : start + 4])[0] + 12
    rest = content[:start] + content[stop:]
    end = rest.index(b"IEND") - 4
    late = rest[:end] + content[start:stop] + rest[end:]
    found = read_picture(lambda: io.BytesIO(late), "late.png")
    np.testing.assert_array_equal(found, np.rot90(np.asarray(image), -1))
    assert read_size(lambda: io.BytesIO(late), "late.png") == (64, 48)


def test_a_size_is_read_without_decoding_the_picture(monkeypatch):
    whole = {kind: encoded(colours("RGB", (1, 2, 3)), kind) for kind in ("png", "jpeg")}

    def decodes(*arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decodes)
    for kind, content in whole.items():
        assert read_size(content, f"a.{kind}") == (4, 6)


def test_what_is_changed_is_said_once_for_each_kind(caplog, monkeypatch):
    monkeypatch.setattr(pictures, "_said", set())
    caplog.set_level(logging.INFO)
    frames = [colours("RGB", (200 * n, 0, 0)) for n in range(2)]
    for n in range(2):
        read_picture(encoded(colours("RGBA", (1, 2, 3, 4))), f"alpha{n}.png")
        read_picture(encoded(colours("CMYK", (1, 2, 3, 4)), "jpeg"), f"cmyk{n}.jpg")
        read_picture(encoded(colours("I;16", 300)), f"deep{n}.png")
        moving = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
        read_picture(moving, f"moving{n}.png")
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "alpha0.png is transparent",
        "cmyk0.jpg is CMYK",
        "deep0.png has 16 bits",
        "moving0.png is animated",
    ]


@pytest.mark.parametrize("content", [b"", b"no picture", b"<html>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_named(content):
    for reader in (read_picture, read_size):
        with pytest.raises(Unreadable, match=r"^some place\.png: it is empty, broken or [^<]*$"):
            reader(lambda: io.BytesIO(content), "some place.png")


def test_a_picture_cut_short_is_named():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for kind in ("png", "jpeg", "webp"):
        whole = encoded(Image.fromarray(noise), kind)().getvalue()
        with pytest.raises(Unreadable, match=r"half\.png: "):
            read_picture(lambda whole=whole: io.BytesIO(whole[: len(whole) // 2]), "half.png")


def test_a_header_that_promises_gigabytes_is_refused_before_they_are_taken():
    content = bytearray(encoded(colours("RGB", (0, 0, 0)))().getvalue())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    for reader in (read_picture, read_size):
        with pytest.raises(Unreadable, match=r"bomb\.png: .*3600000000 pixels"):
            reader(lambda: io.BytesIO(bytes(content)), "bomb.png")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), TimeoutError("no answer")])
def test_a_disk_that_fails_is_no_broken_picture(error):
    def fails():
        raise error

    with pytest.raises(type(error)):
        read_picture(fails, "a.png")


def test_bytes_changed_anywhere_are_a_picture_or_one_line():
    random = np.random.default_rng(0)
    photograph = Image.fromarray(load_sample_image("flower.jpg")[:32, :48])
    exif = Image.Exif()
    exif[0x0112] = 8
    whole = [
        encoded(photograph, kind, **options)().getvalue()
        for kind, options in (
            ("png", {"exif": exif}),
            ("jpeg", {"exif": exif}),
            ("webp", {"exif": exif}),
            ("gif", {}),
        )
    ]
    for number in range(800):
        content = bytearray(whole[number % len(whole)])
        places = random.integers(0, min(len(content), (200, 10_000)[number % 3 == 0]), 4)
        for place in places:
            content[place] = random.integers(256)
        try:
            found = read_picture(lambda content=content: io.BytesIO(bytes(content)), "x.png")
            size = read_size(lambda content=content: io.BytesIO(bytes(content)), "x.png")
            assert found.shape == (*size, 3)
        except Unreadable as error:
            assert str(error).startswith("x.png: ") and "\n" not in str(error)
