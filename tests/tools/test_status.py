"""`status`: what another shell sees of a run."""

import json
import time

import pytest

from flashjax.cli import main
from flashjax.stages.stage import run_stage
from flashjax.train.loop import Interrupted


def _guide(folder):
    """A job that was stopped at step 4 of 10, one of whose processes has been silent since."""
    for path, record in {
        "hosts/heartbeat-0.json": {"step": 4, "time": time.time()},
        "hosts/heartbeat-1.json": {"step": 3, "time": time.time() - 600},
        "metrics/metrics.jsonl": {
            "step": 4,
            "time/step_seconds": 2.0,
            "student/loss": 0.25,
            "speed/mfu": 0.4,
            "time/goodput": 0.9,
            "memory/host_bytes": 2**30,
        },
        "checkpoints/2/x": {},
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(record) + "\n")
    raise Interrupted(4)


@pytest.fixture
def workdir(tmp_path):
    run_stage("prepare", {}, tmp_path, lambda folder: {}, inputs={}, seed=0)
    with pytest.raises(Interrupted):
        run_stage("guide", {"job": {"steps": 10}}, tmp_path, _guide, inputs={}, seed=0)
    return tmp_path


def test_a_line_says_how_far_a_stage_is(workdir, capsys):
    assert main(["status", str(workdir)]) == 0
    prepare, guide = capsys.readouterr().out.splitlines()
    assert prepare.split()[:2] == ["prepare", "done"]
    assert "step 3 of 10, saved 2  2 s/step  0:00:14 left" in guide
    assert "student/loss 0.25  MFU 40 %  host 1.00 GiB  goodput 90 %" in guide
    assert "process 1 silent for 0:1" in guide and "process 0" not in guide
    assert "Interrupted: interrupted after step 4" in guide


@pytest.mark.parametrize("lost", ["", "{}", "\0\0"])
def test_a_sign_of_life_that_a_host_lost_is_none(workdir, capsys, lost):
    (workdir / "guide" / "hosts" / "heartbeat-1.json").write_text(lost)
    assert main(["status", str(workdir)]) == 0
    assert "step 4 of 10, saved 2" in (told := capsys.readouterr().out) and "silent" not in told


def test_programs_read_json(workdir, capsys):
    assert main(["status", str(workdir), "--json"]) == 0
    prepare, guide = json.loads(capsys.readouterr().out)
    assert prepare["status"] == "done" and guide["left_seconds"] == 14.0
    assert guide["figures"]["speed/mfu"] == 0.4


def test_stages_of_one_name_are_told_apart_by_where_they_are(tmp_path, capsys):
    for cell in ("shared", "cells/4-guided"):
        run_stage("judged", {}, tmp_path / cell, lambda folder: {}, inputs={}, seed=0)
    assert main(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["shared/judged", "cells/4-guided/judged"]
    assert len({line.index("done") for line in lines}) == 1
    assert main(["status", str(tmp_path / "shared" / "judged")]) == 0
    assert capsys.readouterr().out.split()[:2] == ["judged", "done"]


def test_a_folder_without_stages_is_refused(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no stage" in capsys.readouterr().err
