"""`bench sample`: a row for each sampler, with and without a decoder, as ratios to the teacher."""

import json

import jax.numpy as jnp
import pytest

from flashjax.cli import main
from flashjax.models.flops import mmdit_flops
from flashjax.models.vae import VAEConfig
from flashjax.tools.bench import sample
from flashjax.tools.bench.matched import case_of
from flashjax.tools.bench.measuring import Spent

SIZE = "64/2/4+3/2"


def test_all_samplers_are_timed_and_kept(tmp_path, capsys) -> None:
    out = tmp_path / "sample.json"
    flags = ["--size", SIZE, "--rounds", "1", "--json", str(out)]
    assert main(["bench", "sample", *flags]) == 0
    told = json.loads(out.read_text())
    rows = told["rows"]
    assert [row["sampler"] for row in rows] == ["teacher 50", "student 4", "student 2", "student 1"]
    assert [row["passes"] for row in rows] == [100, 4, 2, 1]
    assert {row["ends_with"] for row in rows} == {"transformer"}
    assert all(0 < row["seconds_per_picture"] < 600 for row in rows)
    assert rows[0]["times_as_fast_as_teacher"] == 1
    assert "student 4" in capsys.readouterr().out


def test_a_model_with_a_decoder_draws_pictures(monkeypatch) -> None:
    """The program is that of `flashjax sample`, to the last shape."""
    tiny = VAEConfig(channels=(8, 8), layers=1, groups=2)
    monkeypatch.setattr(sample, "decoder_of", lambda case: tiny)
    only = sample.samplers()[-1:]
    monkeypatch.setattr(sample, "samplers", lambda: only)
    case = case_of(SIZE)
    compute = sample.matched.compute_with(None, [])
    model = sample.matched.transformer_of(case.sizes, compute)
    calls = sample.calls_of(case, compute, model)
    assert calls["student 1", sample.LATENTS]().shape == case.latents
    pictures = calls["student 1", sample.PICTURES]()
    side = case.side * tiny.factor
    assert pictures.shape == (case.batch, side, side, 3) and jnp.isfinite(pictures).all()


def test_decoders_are_those_of_named_models() -> None:
    assert sample.decoder_of(case_of(SIZE)) is None
    assert sample.decoder_of(case_of("sd35_medium/512/1")) == VAEConfig()
    assert sample.decoder_of(case_of("nano/64/2")).factor == 8


def test_figures_are_of_one_picture() -> None:
    case = case_of(SIZE)
    spent = {
        ("teacher 50", sample.LATENTS): Spent([40.0, 50.0, 90.0]),
        ("student 4", sample.LATENTS): Spent([2.0]),
    }
    first, second = sample.figures(case, spent, peak=1e9)["rows"]
    assert (first["seconds_per_picture"], second["times_as_fast_as_teacher"]) == (25.0, 25.0)
    forward = mmdit_flops(case.sizes, image=4, text=3)
    assert second["share_of_peak"] == pytest.approx(4 * forward / 1.0 / 1e9)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "sd9/512/1"], "with a name of nano, sd3_medium"),
        (["--rounds", "0"], "--rounds 0: give 1 or more"),
        (["--chip", "abacus"], "--chip abacus is unknown"),
        (
            ["--config", "nano", "--config.compute.attention=cudnn"],
            "compute.attention=cudnn: one device of this machine has xla",
        ),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, capsys) -> None:
    assert main(["bench", "sample", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
