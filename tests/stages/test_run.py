"""`run`: the road, or a part of it."""

import json
from pathlib import Path

import pytest

from flashjax import cli
from flashjax.config import load
from flashjax.stages import run
from flashjax.stages.stage import run_stage
from flashjax.types import InputError

NANO = Path(__file__).parents[2] / "configs" / "nano.py"


def test_the_road_is_that_of_the_command_line():
    assert list(run.ROAD) == cli.ROAD


def test_a_part_of_the_road_is_run_in_its_order(monkeypatch, tmp_path):
    seen = []

    def stage(name):
        return type("", (), {"run": staticmethod(lambda *_: seen.append(name) or {"was": name})})

    monkeypatch.setattr(run, "ROAD", {name: stage(name) for name in run.ROAD})
    config = load(NANO)
    assert run.run(config, tmp_path, first="guide", last="split") == {"was": "split"}
    assert seen == ["guide", "match", "split"]


@pytest.fixture
def workdir(tmp_path):
    """A workdir where `import` and `guide` are finished; nothing was computed."""
    config = load(NANO)
    for name in ("import", "guide"):
        section = run.ROAD[name].section_of(config)
        (tmp_path / name).mkdir()
        run_stage(name, section, tmp_path, lambda folder: {"kept": 1}, inputs={}, seed=config.seed)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
@pytest.mark.parametrize("verb", ["run", "match"])
def test_a_stage_of_another_config_is_refused_before_anything_is_written(
    verb, more, workdir, capsys
):
    """Or `match` would build on a student that was guided otherwise than its config says."""
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    words = [verb, f"--config={NANO}", f"--workdir={workdir}", "--config.guide.guide.substeps=2"]
    words += ["--config.simulate_devices=1", *more]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "holds stage 'guide' of another config (differs in guide.substeps: 4 -> 2)" in said
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_files_of_others_and_a_fork_of_nothing_are_said_in_a_dry_run(workdir, capsys):
    place = [f"--config={NANO}", f"--workdir={workdir}", "--config.simulate_devices=1"]
    (workdir / "match").mkdir()
    (workdir / "match" / "notes.txt").write_text("mine")
    assert cli.main(["run", *place, "--dry_run"]) == 2
    assert "match holds files, but no stage.json" in capsys.readouterr().err
    assert cli.main(["guide", *place, "--dry_run", f"--fork={workdir}/nowhere"]) == 2
    assert "nowhere has no checkpoints" in capsys.readouterr().err


def test_a_stage_is_of_the_config_whatever_its_mesh(workdir):
    config = load(NANO, ["mesh.fsdp=2", "guide.job.log_steps=1"])
    run.check_stages(config, workdir, list(run.ROAD))
    record = json.loads((workdir / "guide" / "stage.json").read_text())
    (workdir / "guide" / "stage.json").write_text(json.dumps(record | {"status": "running"}))
    run.check_stages(load(NANO, ["guide.optimiser.learning_rate=1e-5"]), workdir, list(run.ROAD))
    with pytest.raises(InputError, match="differs in seed: 0 -> 1"):
        run.check_stages(load(NANO, ["seed=1"]), workdir, list(run.ROAD))
