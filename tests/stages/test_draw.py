"""A teacher draws pictures for captions: the sampler's, whatever the batch, once each."""

from pathlib import Path

import jax
import numpy as np
import pytest

from flashjax import config as configs
from flashjax.data.cache import read_cache
from flashjax.data.kinds import drawn
from flashjax.data.tokenizers import load_tokenizers
from flashjax.evaluate.sample import Sampler, make_sample, noise_key
from flashjax.flow.schedule import sampler_sigmas
from flashjax.sources import open_pipeline
from flashjax.stages import draw, drawing, import_teacher, prepare
from flashjax.stages.drawing import fetched
from flashjax.stages.registry import open_samples
from flashjax.types import InputError

NANO = Path(__file__).parents[2] / "configs" / "nano.py"
PROMPTS = [f"a red {word}" for word in "one two three four five six".split()]


def config_of(teacher, folder, **changes):
    (folder / "p.txt").write_text("\n".join(PROMPTS))
    given = {
        "teacher.source": teacher,
        "data.source": folder / "p.txt",
        "data.validation": 1,
        "data.train": 0,
        "data.draw.steps": 2,
        "data.draw.batch_size": 4,
        "simulate_devices": 1,
    }
    given |= {key.replace("__", "."): value for key, value in changes.items()}
    return configs.load(NANO, [f"{key}={value}" for key, value in given.items()])


@pytest.fixture(scope="module")
def run(tiny_teacher, tmp_path_factory):
    """Six prompts, drawn in batches of four and tars of three, and prepared."""
    folder = tmp_path_factory.mktemp("drawn")
    config = config_of(tiny_teacher, folder)
    import_teacher.run(config, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn, "SHARD", 3)
        prepare.run(config, folder)
    return config, folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(drawn, "SHARD", 3)


def test_pictures_are_the_samplers_from_noise_of_their_number(run, tiny_teacher):
    config, folder = run
    pipeline, tokenizer = open_pipeline(tiny_teacher), load_tokenizers(tiny_teacher)
    sigmas = tuple(sampler_sigmas(2, pipeline.shift).tolist())
    sample = make_sample(pipeline, Sampler(sigmas, 4.0))
    params = {"transformer": pipeline.transformer, "vae": pipeline.vae, "text": pipeline.text}
    samples = open_samples(config, folder / "data")
    parts = [*samples["train"]._parts] if hasattr(samples["train"], "_parts") else [samples]
    assert len(parts) == 1 and [len(samples[name]) for name in samples] == [5, 1]
    found = [
        samples[name][i] for name in ("train", "validation") for i in range(len(samples[name]))
    ]
    assert sorted(sample.caption for sample in found) == sorted(PROMPTS)
    for number, one in enumerate(found):
        key = jax.random.fold_in(noise_key(config.data.seed), number)
        noise = jax.random.normal(key, (1, 8, 8, 16))
        picture = sample(params, tokenizer([one.caption]), tokenizer([""]), noise)[0]
        expected = np.clip((np.asarray(picture) + 1) * 127.5, 0, 255)
        assert np.ptp(expected) > 10
        np.testing.assert_allclose(one.image, expected, atol=1.01)


def test_prepare_caches_what_was_drawn(run):
    _, folder = run
    (bucket,) = read_cache(folder / "prepare").buckets
    assert bucket.name == "64x64" and bucket.count == 5


def test_what_is_drawn_is_not_drawn_again_and_a_tar_that_is_gone_has_the_same_bytes(
    run, tmp_path, monkeypatch
):
    config, folder = run
    wanted = draw.undrawn(config, folder / "data")
    place, samples = next(iter(wanted.items()))
    before = {path.name: path.read_bytes() for path in sorted(place.glob("*.tar"))}
    assert list(before) == ["00000.tar", "00001.tar"]
    (place / "00001.tar").unlink()
    with pytest.raises(InputError, match=r"00001\.tar is not there: run prepare"):
        open_samples(config, folder / "data")
    asked = []
    teacher = draw.open_teacher(config, folder, configs.section(config, "data", draw.DataConfig))
    draw.draw_all(lambda *a: asked.append(a[1]) or teacher(*a), samples, place, 0, batch=2)
    assert asked == [[3, 4]]
    assert {path.name: path.read_bytes() for path in sorted(place.glob("*.tar"))} == before


def test_a_sharded_teacher_draws_the_same(run, tiny_teacher, monkeypatch):
    config, folder = run
    drawn = []
    monkeypatch.setattr(draw, "fetched", lambda both: drawn.append(both[0]) or fetched(both))
    other = config_of(tiny_teacher, folder, mesh__data=2, mesh__fsdp=2)
    data = configs.section(other, "data", draw.DataConfig)
    one, many = (draw.open_teacher(c, folder, data)(PROMPTS[:4], range(4)) for c in (config, other))
    assert [images.sharding.num_devices for images in drawn] == [1, 4]
    np.testing.assert_allclose(np.int32(many), np.int32(one), atol=1)


def test_what_cannot_be_drawn_is_one_line(tiny_teacher, tmp_path):
    config = config_of(tiny_teacher, tmp_path, data__source="digit_scenes")
    with pytest.raises(InputError, match=r"data\.draw\.steps=2, but data\.source has pictures"):
        draw.run(config, tmp_path)
    config = config_of(tiny_teacher, tmp_path, data__draw__batch_size=3, mesh__data=2)
    with pytest.raises(InputError, match=r"data\.draw\.batch_size=3 does not split over .* = 2"):
        draw.open_teacher(config, tmp_path, configs.section(config, "data", draw.DataConfig))
    assert draw.run(config_of(tiny_teacher, tmp_path, data__draw__steps=0), tmp_path) == {}


def test_what_guidance_goes_away_from_is_encoded_once(run, monkeypatch):
    config, folder = run
    rows, encoder = [], drawing.make_encoder

    def counting(sizes, mesh):
        encode = encoder(sizes, mesh)
        return lambda params, tokens: rows.append(len(tokens.clip_l)) or encode(params, tokens)

    monkeypatch.setattr(drawing, "make_encoder", counting)
    data = configs.section(config, "data", draw.DataConfig)
    teacher = draw.open_teacher(config, folder, data)
    first, second = (teacher(PROMPTS[:4], range(4)) for _ in range(2))
    assert sorted(rows) == [1, 4, 4] and np.array_equal(first, second)
