"""`verify`: whatever a workdir keeps is read, and one changed bit of it is named."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.checkpoint import Checkpoints, save_params
from flashjax.cli import main
from flashjax.data.cache import write_shard
from flashjax.stages.stage import run_stage, stage_folders
from flashjax.tools import verify
from flashjax.types import InputError


def _body(folder):
    noise = jax.random.normal(jax.random.key(0), (64, 64))
    save_params(folder / "lo" / "params", {"w": noise})
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(4, {"w": noise, "step": jnp.int32(4), "opt": (noise, {})}, {"at": 1})
    checkpoints.close()
    write_shard(folder / "64x64.array_record", [np.asarray(noise).tobytes()] * 3)
    (folder / "student.safetensors").write_bytes(bytes(100))
    return {}


@pytest.fixture
def workdir(tmp_path):
    run_stage("split", {}, tmp_path, _body, inputs={}, seed=0)
    return tmp_path


def _verify(workdir, capsys):
    code = main(["verify", str(workdir)])
    return code, capsys.readouterr().err


def test_what_was_written_is_whole(workdir, capsys):
    assert _verify(workdir, capsys) == (0, "")


@pytest.mark.parametrize(
    "name", ["lo/params", "checkpoints/4", "64x64.array_record", "student.safetensors"]
)
def test_one_changed_bit_is_named(workdir, name, capsys):
    place = workdir / "split" / name
    files = [place] if place.is_file() else [*place.rglob("d/*")]
    path = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    code, said = _verify(workdir, capsys)
    assert code == 2 and name in said and len(said.splitlines()) == 1


def test_a_stage_on_another_disk_is_verified_once(workdir, capsys):
    shutil.move(workdir / "split", workdir.parent / "disk")
    (workdir / "split").symlink_to(workdir.parent / "disk", target_is_directory=True)
    (workdir / "cells").mkdir()
    (workdir / "cells" / "again").symlink_to(workdir / "split", target_is_directory=True)
    (workdir / "loop").symlink_to(workdir, target_is_directory=True)
    code, _ = _verify(workdir, capsys)
    assert code == 0 and len(stage_folders(workdir)) == 1
    (workdir.parent / "disk" / "student.safetensors").write_bytes(bytes(99))
    code, said = _verify(workdir, capsys)
    assert code == 2 and "student.safetensors" in said


def test_a_checkpoint_that_a_job_takes_away_meanwhile_is_no_damage(tmp_path, monkeypatch, capsys):
    def going(path):
        shutil.rmtree(path)
        raise InputError(f"{path} is no complete checkpoint")

    run_stage("split", {}, tmp_path, _body, inputs={}, seed=0)
    monkeypatch.setattr(verify, "check_checkpoint", going)
    monkeypatch.setattr(verify, "GOING_SECONDS", 0.0)
    assert _verify(tmp_path, capsys) == (0, "")


def test_an_unfinished_stage_is_verified_by_its_checkpoints(tmp_path, capsys):
    def stopped(folder):
        _body(folder)
        raise InputError("stopped")

    with pytest.raises(InputError):
        run_stage("split", {}, tmp_path, stopped, inputs={}, seed=0)
    assert _verify(tmp_path, capsys) == (0, "")
    (tmp_path / "split" / "checkpoints" / "4" / "checksums" / "metadata").write_text("{}")
    code, said = _verify(tmp_path, capsys)
    assert code == 2 and "checkpoints/4" in said


def test_a_folder_without_stages_is_refused(tmp_path, capsys):
    code, said = _verify(tmp_path / "absent", capsys)
    assert code == 2 and "holds no stage" in said
