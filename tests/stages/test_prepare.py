"""`prepare`: what is usable is cached by shape, the rest is listed, and a stop costs a shard."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from flashjax.cli import main
from flashjax.data.cache import LATENTS, open_buckets, read_cache
from flashjax.data.config import DataConfig
from flashjax.data.samples import Sample, Unreadable
from flashjax.data.selection import Mixed
from flashjax.data.tokenizers import load_tokenizers
from flashjax.models.vae import VAE, VAEConfig, encode
from flashjax.stages import prepare as stage
from flashjax.stages.encoding import Encoder, to_unit
from flashjax.stages.prepare import prepare
from flashjax.types import Cond, InputError

CONFIG = "configs/nano.py"


class Pictures(list):
    """Samples of which some are broken: an exception stands for them."""

    name, digest = "pictures", "0"

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(found, Exception):
            raise found
        return found

    def size(self, index):
        image = self[index].image
        return None if image is None else image.shape[:2]


@pytest.fixture(scope="module")
def encoder(tiny_teacher):
    import jax
    import jax.numpy as jnp

    config = VAEConfig(channels=(4, 4, 8, 8), layers=1, groups=2, latent_channels=4)
    params = jax.jit(VAE(config).init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    return Encoder(config, params, load_tokenizers(tiny_teacher), None, "float32")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3), np.uint8)


def samples():
    found = [Sample(noise(64, 64, seed=n), f"a red {n}") for n in range(5)]
    found.insert(2, Sample(noise(20, 20), "too small"))
    found.append(Unreadable("broken.png: no picture"))
    found.append(Sample(noise(64, 64, seed=0), "again"))
    return Pictures(found)


def made(folder, encoder, data=None, given=None, side=64):
    folder.mkdir(exist_ok=True)
    data = data or DataConfig("x")
    return prepare(given or samples(), folder, encoder, {"side": side}, data=data, side=side)


def test_what_is_usable_is_cached_and_the_rest_is_listed(tmp_path, encoder):
    cache = made(tmp_path / "c", encoder)
    assert dict(cache.counts) == {"kept": 6, "skipped": 2, "duplicates": 1}
    why = [json.loads(line) for line in (tmp_path / "c" / "skipped.jsonl").read_text().splitlines()]
    assert {row["why"] for row in why} == {
        "sample 2: 20 x 20 pixels are too few",
        "broken.png: no picture",
    }
    twice = json.loads((tmp_path / "c" / "duplicates.jsonl").read_text())
    assert twice == {"samples": [0, 7]}
    (batch,) = open_buckets(tmp_path / "c", read_cache(tmp_path / "c"))
    rows = np.arange(6)
    images = np.stack([noise(64, 64, seed=n) for n in (0, 1, 2, 3, 4, 0)])
    want = encode(encoder.vae_config, encoder.vae, to_unit(images))
    np.testing.assert_allclose(batch.latents[rows], want, rtol=1e-5, atol=1e-5)
    captions = [*(f"a red {n}" for n in range(5)), "again"]
    np.testing.assert_array_equal(batch.tokens.t5[rows], encoder.tokenizer(captions).t5)


def test_pictures_of_several_shapes_are_buckets_and_captions_alone_another(tmp_path, encoder):
    given = Pictures(
        [Sample(noise(192, 192), "a"), Sample(noise(260, 130), "b"), Sample(noise(120, 260), "c")]
    )
    given.append(Sample(None, "d"))
    cache = made(tmp_path / "c", encoder, given=given, side=192)
    assert [bucket.name for bucket in cache.buckets] == [
        "128x256",
        "192x192",
        "256x128",
        "captions",
    ]
    found = open_buckets(tmp_path / "c", cache)
    assert [b.latents.shape[1:3] for b in found] == [(16, 32), (24, 24), (32, 16), (24, 24)]
    assert [b.pictures for b in found] == [True, True, True, False]
    assert LATENTS not in cache.buckets[-1].fields
    few = DataConfig("x", smallest=2)
    with pytest.raises(InputError, match="none of 4 samples can be used"):
        made(tmp_path / "few", encoder, few, given, side=192)


def test_what_is_there_again_by_its_weight_is_no_duplicate(tmp_path, encoder):
    few, many = (
        Pictures([Sample(noise(64, 64, seed=seed + n), f"{n}") for n in range(number)])
        for seed, number in ((0, 2), (9, 6))
    )
    many.append(many[0])
    cache = made(tmp_path / "c", encoder, given=Mixed([few, many], (1.0, 1.0)))
    assert dict(cache.counts) == {"kept": 14, "skipped": 0, "duplicates": 1}


def test_a_bucket_that_broken_pictures_leave_too_small_is_left_out(tmp_path, encoder):
    """Headers alone do not say which pictures can be read."""

    class WithHeaders(Pictures):
        def size(self, index):
            return (192, 192) if index < 2 else (130, 260)

    square = [Sample(noise(192, 192, seed=n), f"{n}") for n in range(2)]
    given = WithHeaders([*square, Sample(noise(130, 260), "wide"), Unreadable("b.png: no picture")])
    cache = made(tmp_path / "c", encoder, DataConfig("x", smallest=2), given, side=192)
    assert [(bucket.name, bucket.count) for bucket in cache.buckets] == [("192x192", 2)]
    assert cache.counts["skipped"] == cache.counts["kept"] == 2
    text = (tmp_path / "c" / "skipped.jsonl").read_text()
    assert "bucket 128x256 has 1 samples, fewer than data.smallest=2" in text


def test_a_stopped_preparation_goes_on_to_the_same_bytes(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(stage, "SHARD", 2)
    whole = made(tmp_path / "whole", encoder)
    made(tmp_path / "part", encoder)
    kept = tmp_path / "part" / "64x64-00000.array_record"
    before = kept.stat().st_mtime_ns
    for name in ("64x64-00001.array_record.json", "64x64-00002.array_record", "manifest.json"):
        (tmp_path / "part" / name).unlink()
    (tmp_path / "part" / "64x64-00002.array_record.json").unlink()
    assert made(tmp_path / "part", encoder) == whole
    assert kept.stat().st_mtime_ns == before
    for file in (tmp_path / "whole").glob("64x64*"):
        assert file.read_bytes() == (tmp_path / "part" / file.name).read_bytes(), file.name


def test_other_samples_in_a_cache_that_was_begun_are_refused(tmp_path, encoder):
    made(tmp_path / "c", encoder)
    other = samples()
    other.digest = "1"
    with pytest.raises(InputError, match="was begun with other samples"):
        made(tmp_path / "c", encoder, given=other)


def test_a_disk_that_is_too_small_is_said_before_anything_is_encoded(
    tmp_path, encoder, monkeypatch
):
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda path: type("", (), {"free": 100}))
    with pytest.raises(InputError, match=r"the cache takes .* GB and 1e-07 GB are free"):
        made(tmp_path / "c", encoder)
    assert not list((tmp_path / "c").glob("*.array_record"))


def test_what_is_written_already_needs_no_room_again(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(stage, "SHARD", 2)
    whole = made(tmp_path / "c", encoder)
    for name in ("64x64-00002.array_record", "64x64-00002.array_record.json", "manifest.json"):
        (tmp_path / "c" / name).unlink()
    last = (tmp_path / "c" / "64x64-00000.array_record").stat().st_size
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda path: SimpleNamespace(free=1.5 * last))
    assert made(tmp_path / "c", encoder) == whole


def test_pictures_that_are_all_too_small_or_broken_are_one_line(tmp_path, encoder):
    with pytest.raises(InputError, match=r"none of 1 samples can be used .*20 x 20 pixels"):
        made(tmp_path / "a", encoder, given=Pictures([Sample(noise(20, 20), "x")]))
    with pytest.raises(InputError, match="none of 1 samples can be used"):
        made(tmp_path / "b", encoder, given=Pictures([Unreadable("b.png: broken")]))


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """A folder as a team has it: photographs of three shapes, alpha, a broken file, odd names."""
    root = tmp_path_factory.mktemp("data") / "my pictures"
    root.mkdir()
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(24):
        photograph = photographs[number % 2]
        width, height = ((128, 128), (192, 96), (96, 192))[number % 3]
        box = (7 * number, 5 * number, 7 * number + width, 5 * number + height)
        piece = photograph.crop(box)
        name = f"photo {number}.{'jpg' if number % 2 else 'png'}"
        if number == 6:
            piece.putalpha(128)
        piece.save(root / name)
        (root / name).with_suffix(".txt").write_text(f"piece {number} of a photograph\r\n")
    (root / "photo 9.jpg").write_bytes((root / "photo 9.jpg").read_bytes()[:200])
    return root


def test_a_folder_of_photographs_goes_through_import_and_prepare(team, tiny_teacher, tmp_path):
    """And nothing of the task that the config was written for is in the cache."""
    flags = ["--config", CONFIG, "--workdir", str(tmp_path), "--config.simulate_devices=1"]
    flags += [f"--config.teacher.source={tiny_teacher}", f"--config.data.source={team}"]
    assert main(["import", *flags]) == 0 and main(["prepare", *flags]) == 0
    folder = tmp_path / "prepare"
    cache = read_cache(folder)
    kept, held = cache.counts["kept"], 24 // 5
    assert kept + cache.counts["skipped"] == 24 - held
    assert "my pictures" in cache.samples["name"]
    assert (
        not (tmp_path / "data").exists() and "digit" not in (folder / "manifest.json").read_text()
    )
    told = (folder / "skipped.jsonl").read_text() if cache.counts["skipped"] else ""
    assert told.count("photo 9.jpg") <= 1 and cache.counts["skipped"] <= 1


def test_an_unknown_source_is_refused_and_nothing_is_made(tiny_teacher, tmp_path, capsys):
    flags = ["--config", CONFIG, "--workdir", str(tmp_path), "--config.simulate_devices=1"]
    flags += [f"--config.teacher.source={tiny_teacher}"]
    assert main(["import", *flags]) == 0
    capsys.readouterr()
    assert main(["prepare", *flags, "--config.data.source=nowhere"]) == 2
    line = capsys.readouterr().err.strip()
    assert "nowhere does not exist: give a folder of pictures" in line and "\n" not in line


def test_the_empty_caption_is_encoded_once_for_all_buckets(tmp_path, encoder):
    asked = []

    def condition(tokens):
        asked.append(len(tokens.clip_l))
        row = np.ones((len(tokens.clip_l), 2), np.float32)
        return Cond(text=row[:, None], pooled=row)

    shapes = [(192, 192), (128, 256), (256, 128)]
    given = Pictures([Sample(noise(*shape), "a") for shape in shapes for _ in range(3)])
    kept = dataclasses.replace(encoder, condition=condition)
    assert len(made(tmp_path / "c", kept, given=given, side=192).buckets) == 3
    assert sorted(asked) == [1, 3, 3, 3]
