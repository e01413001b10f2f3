"""Wrong input is answered in one line that names the place, with exit code 2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from flashjax import trees
from flashjax.cli import main
from flashjax.models.mmdit import MMDiT, MMDiTConfig, features_of
from flashjax.parallel.mesh import make_mesh
from flashjax.stages.compute import Compute
from flashjax.stages.model import open_model
from flashjax.types import InputError

CONFIG = str(Path(__file__).parents[2] / "configs" / "nano.py")


def test_a_tap_beyond_the_blocks_is_named():
    sizes = MMDiTConfig(
        depth=2, heads=1, dual=0, position_size=4, text_width=8, pooled_width=8, head_width=8
    )
    with pytest.raises(InputError, match="taps"):
        features_of(MMDiT(sizes), (0, 2))


def test_a_dtype_that_networks_are_not_computed_in_is_named():
    with pytest.raises(InputError, match=r"text_dtype=float16: choose of float32, bfloat16"):
        Compute(text_dtype="float16")


def answer(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that the command line answers wrong arguments with."""
    assert main([*arguments, "--config.simulate_devices=1"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def importing(workdir: Path, source: Path) -> list[str]:
    place = ["--config", CONFIG, "--workdir", str(workdir)]
    return ["import", *place, f"--config.teacher.source={source}"]


def test_an_unknown_key_names_the_nearest(tmp_path, capsys):
    arguments = ["run", "--config", CONFIG, "--workdir", str(tmp_path)]
    line = answer(capsys, [*arguments, "--config.match.job.step=3"])
    assert "match.job.step" in line and "match.job.steps" in line


def test_an_ill_typed_value_names_the_type(tmp_path, capsys):
    arguments = ["run", "--config", CONFIG, "--workdir", str(tmp_path)]
    line = answer(capsys, [*arguments, "--config.match.job.steps=many"])
    assert "match.job.steps" in line and "int" in line


def test_a_missing_teacher_is_named(tmp_path, capsys):
    line = answer(capsys, importing(tmp_path / "run", tmp_path / "nothing"))
    assert str(tmp_path / "nothing") in line


def test_truncated_weights_are_named(tiny_teacher, tmp_path, capsys):
    broken = shutil.copytree(tiny_teacher, tmp_path / "broken")
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert str(weights) in answer(capsys, importing(tmp_path / "run", broken))


def test_missing_weights_are_named(tiny_teacher, tmp_path, capsys):
    broken = shutil.copytree(tiny_teacher, tmp_path / "broken")
    (broken / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "vae" in answer(capsys, importing(tmp_path / "run", broken))


def test_a_stage_without_its_input_says_which(tiny_teacher, tmp_path, capsys):
    arguments = ["guide", "--config", CONFIG, "--workdir", str(tmp_path)]
    line = answer(capsys, [*arguments, f"--config.teacher.source={tiny_teacher}"])
    assert "prepare" in line


@pytest.mark.parametrize("length", [0, 77])
def test_a_teacher_without_t5_is_imported_with_the_configured_zeros(tiny_teacher, tmp_path, length):
    source = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, source, ignore=shutil.ignore_patterns("text_encoder_3"))
    index = json.loads((source / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps(index | {"text_encoder_3": [None, None]}))
    flags = importing(tmp_path / "run", source)
    flags += ["--config.simulate_devices=1", f"--config.teacher.absent_t5={length}"]
    assert main(flags) == 0
    pipeline, _ = open_model(tmp_path / "run")
    assert pipeline.text_config.t5.length == length
    assert "t5" not in pipeline.text
    # On a mesh the same weights are read to where their roles are stored, never whole.
    split, _ = open_model(tmp_path / "run", make_mesh({"fsdp": 4}))
    for name, kernel in (("transformer", "dual/image/fc1/kernel"), ("text", "clip_l/tokens")):
        whole, apart = (trees.flatten(getattr(p, name))[kernel] for p in (pipeline, split))
        assert {shard.data.size for shard in apart.addressable_shards} == {whole.size // 4}
        np.testing.assert_array_equal(apart, whole)
