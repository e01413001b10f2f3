"""What is refused leaves a workdir byte for byte as it was; what has come of a stage stays."""

import fcntl
import json
from pathlib import Path

import pytest

from flashjax import config as configs
from flashjax.cli import main
from flashjax.stages import run as road
from flashjax.stages.refused import withdrawn_folders
from flashjax.stages.stage import run_stage
from flashjax.types import InputError

NANO = Path(__file__).parents[2] / "configs" / "nano.py"


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refuse(folder: Path) -> dict[str, int]:
    raise InputError("this cannot be")


def stage(workdir: Path, body, **section):
    return run_stage("guide", section, workdir, body, inputs={}, seed=0)


def test_a_stage_that_never_ran_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="cannot be"), withdrawn_folders(tmp_path / "a" / "run"):
        stage(tmp_path / "a" / "run", refuse, x=1)
    assert tree(tmp_path) == {}


def test_a_stage_that_was_there_keeps_its_record(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, interrupted, x=1)
    before = tree(tmp_path)
    for section in ({"x": 1}, {"x": 2}):
        with pytest.raises(InputError, match="cannot be"):
            stage(tmp_path, refuse, **section)
        assert tree(tmp_path) == before


def interrupted(folder: Path):
    """Before the first checkpoint: what it has measured is no reason to keep it."""
    (folder / "metrics").mkdir()
    (folder / "metrics" / "metrics.jsonl").write_text("{}")
    raise KeyboardInterrupt


def test_a_stage_whose_folder_another_job_holds_keeps_its_metrics(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, interrupted, x=1)
    before = tree(tmp_path)
    with (tmp_path / "guide" / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another job is at work"):
            stage(tmp_path, refuse, x=2)
    assert tree(tmp_path) == before


def test_what_a_stage_has_written_stays_with_its_record(tmp_path):
    def body(folder: Path):
        (folder / "params").write_text("weights")
        raise InputError("the data ends here")

    with pytest.raises(InputError):
        stage(tmp_path, body, x=1)
    assert json.loads((tmp_path / "guide" / "stage.json").read_text())["ended"].endswith("here")


@pytest.mark.parametrize("linked", ["checkpoints", "checkpoints/4"])
def test_a_refusal_is_said_where_a_linked_disk_is_away(linked, tmp_path):
    disk, link = tmp_path / "disk", tmp_path / "guide" / linked

    def linking(folder: Path):
        (disk / "4").mkdir(parents=True)
        (disk / "4" / "state").write_text("weeks")
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(disk / link.relative_to(folder / "checkpoints"), target_is_directory=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, linking)
    disk.rename(tmp_path / "away")
    with pytest.raises(InputError, match="cannot be"):
        stage(tmp_path, refuse)
    assert link.is_symlink()


@pytest.mark.parametrize("there", [False, True])
def test_a_refused_run_leaves_the_config_of_the_last_one(tmp_path, there, monkeypatch):
    workdir = tmp_path / "run"
    if there:
        workdir.mkdir()
        (workdir / "config.json").write_text('{"seed": 7}')
        (workdir / "notes.txt").write_text("a user's")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="input import is missing"), withdrawn_folders(workdir):
        road.run(configs.load(NANO), workdir, first="prepare", last="prepare")
    assert tree(tmp_path) == before
    place = ["--config", str(NANO), "--workdir", str(workdir)]
    assert main(["split", *place, "--config.simulate_devices=1"]) == 2
    assert tree(tmp_path) == before


def test_a_run_whose_stage_did_something_has_its_config(tmp_path, monkeypatch):
    def done(config, workdir):
        return stage(workdir, lambda folder: {}, x=1)

    monkeypatch.setattr(road.guide, "run", done)
    monkeypatch.setattr(road.match, "run", lambda config, workdir: refuse(workdir))
    with pytest.raises(InputError):
        road.run(configs.load(NANO), tmp_path, first="guide", last="match")
    assert (tmp_path / "config.json").exists()
