"""`bench input`: the training's own pipeline, over a made cache or that of a run."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.cli import main
from flashjax.data.cache import LATENTS, open_buckets, read_cache
from flashjax.tools.bench import inputs

SIZE = "64/2/4+3/8"


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    monkeypatch.setattr(inputs, "MOST_SAMPLES", 40)


def test_a_made_cache_is_one_that_training_reads(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(inputs, "SHARD", 16)
    work = inputs.work_of_size(SIZE)
    inputs.make_cache(tmp_path, work.made, work.batch)
    cache = read_cache(tmp_path)
    (bucket,), (data,) = cache.buckets, open_buckets(tmp_path, cache)
    assert (bucket.count, len(bucket.shards)) == (40, 3)
    rows = np.arange(3)
    assert data.latents[rows].shape == (3, 4, 4, 16) and np.isfinite(data.latents[rows]).all()
    assert data.tokens.text[rows].dtype == jnp.bfloat16
    assert data.tokens.text[rows].shape == (3, 3, 256)


def test_rates_and_memory_are_told_and_kept(tmp_path, capsys) -> None:
    out = tmp_path / "input.json"
    flags = ["--size", SIZE, "--rounds", "1", "--step_seconds", "2", "--json", str(out)]
    assert main(["bench", "input", *flags]) == 0
    told = json.loads(out.read_text())
    assert [row["to"] for row in told["rows"]] == [inputs.ROWS, inputs.DEVICE]
    assert all(row["samples_per_second"] > 0 for row in told["rows"])
    assert (told["batch"], told["mesh"]["data"], told["samples"]) == (8, 8, 40)
    rate = told["rows"][1]["samples_per_second"]
    assert told["times_what_a_step_needs"] == pytest.approx(rate / 4)
    assert "a step of 2 s" in capsys.readouterr().out


def test_a_config_says_what_its_samples_are() -> None:
    work = inputs.work_of("nano_tiny", ["simulate_devices=0"])
    assert work.made.latents.shape == (1, 8, 8, 16)
    fields = inputs.fields_of(work.made)
    assert next(iter(fields)) == LATENTS and fields["t5"].dtype == "int32"


def test_the_cache_of_a_run_is_read(tmp_path, capsys) -> None:
    work = inputs.work_of_size(SIZE)
    (tmp_path / "prepare").mkdir()
    inputs.make_cache(tmp_path / "prepare", work.made, work.batch)
    flags = ["--size", SIZE, "--workdir", str(tmp_path), "--rounds", "1"]
    assert main(["bench", "input", *flags]) == 0
    assert str(tmp_path / "prepare") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "64/2/4+3/3"], "batch_size 3 does not split over data x fsdp = 8 devices"),
        (["--size", SIZE, "--step_seconds", "0"], "--step_seconds 0: give more than 0"),
        (["--size", SIZE, "--step_seconds", "nan"], "--step_seconds nan: give more than 0"),
        (["--size", SIZE, "--workdir", "/nowhere"], "run the prepare stage first"),
        (["--size", SIZE, "--rounds", "0"], "--rounds 0: give 1 or more"),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, capsys) -> None:
    assert main(["bench", "input", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
