"""`slim`: another autoencoder in the same pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from flashjax.cli import main
from flashjax.convert.folder import read_pipeline
from flashjax.models.vae import decode

CONFIG = str(Path(__file__).parents[2] / "configs" / "nano_slim.py")


def arguments(workdir, teacher, channels):
    overrides = {
        "teacher.source": teacher,
        "data.train": 16,
        "data.validation": 4,
        "slim.channels": channels,
        "slim.job.steps": 3,
        "slim.optimiser.warmup_steps": 1,
        "slim.optimiser.decay_steps": 1,
    }
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    return ["slim", "--config", CONFIG, "--workdir", str(workdir), *flags]


def test_the_pipeline_is_written_with_the_slim_autoencoder_and_nothing_else_is_changed(
    tiny_teacher, tmp_path, key
):
    assert main(arguments(tmp_path, tiny_teacher, "4,4,4,8")) == 0
    written = tmp_path / "slim" / "pipeline"
    slim, whole = read_pipeline(written), read_pipeline(tiny_teacher)
    assert slim.vae_config.channels == (4, 4, 4, 8)
    assert slim.vae_config.scaling_factor == whole.vae_config.scaling_factor
    latents = np.random.default_rng(0).normal(size=(1, 8, 8, 16)).astype(np.float32)
    theirs = AutoencoderKL.from_pretrained(written / "vae", torch_dtype=torch.float32)
    raw = latents / slim.vae_config.scaling_factor + slim.vae_config.shift_factor
    with torch.no_grad():
        want = theirs.decode(torch.tensor(raw.transpose(0, 3, 1, 2))).sample.clamp(-1, 1)
    got = np.asarray(decode(slim.vae_config, slim.vae, latents)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, want, atol=1e-5)
    kept = {path.relative_to(tiny_teacher) for path in tiny_teacher.rglob("*") if path.is_file()}
    assert kept == {path.relative_to(written) for path in written.rglob("*") if path.is_file()}
    for path in kept:
        if path.parts[0] != "vae":
            assert (written / path).read_bytes() == (tiny_teacher / path).read_bytes(), path


@pytest.mark.parametrize(
    ("channels", "said"), [("4,4,8", "3 levels"), ("4,4,5,8", "multiples of 2")]
)
def test_sizes_that_do_not_fit_the_latents_or_norms_are_refused(
    channels, said, tiny_teacher, tmp_path, capsys
):
    assert main(arguments(tmp_path, tiny_teacher, channels)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "slim.channels" in line and said in line
