"""A whole grid in its smallest size: trained, judged, told; run again it does nothing; probed."""

import argparse
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from flashjax import config
from flashjax.cli import main
from flashjax.tools import preflight
from flashjax.tools.ablate import cell as at_work
from flashjax.tools.ablate import command
from flashjax.tools.ablate.command import (
    beside,
    kinds_of,
    share_beside,
    take_devices,
    with_needs,
)
from flashjax.tools.ablate.grid import cells, read_grid
from flashjax.types import InputError

FILE = Path(__file__).parents[3] / "configs" / "ablation_nano.py"


@pytest.fixture(scope="module")
def run(shallow_teacher, tmp_path_factory):
    """Arguments of a grid that is done, and its folder."""
    workdir = tmp_path_factory.mktemp("ablation")
    small = {"teacher.source": shallow_teacher, "match.heads.taps": "0", "match.heads.width": 8}
    small |= {"simulate_devices": 0}  # there are eight already
    flags = [f"--config.{key}={value}" for key, value in small.items()]
    arguments = ["ablate", "--config", f"{FILE}:smoke", "--workdir", str(workdir), *flags]
    subprocess.run([sys.executable, "-m", "flashjax", *arguments], check=True)
    return arguments, workdir


def test_every_cell_has_its_row_and_pictures(run):
    _, workdir = run
    told = json.loads((workdir / "ablation.json").read_text())
    assert told["cells"] == {"all": 3, "done": 3, "broken": {}}
    rows = {(row["arm"], row["split"]): row for row in told["rows"]}
    assert set(rows) == {("", ""), ("renoise", ""), ("renoise", "pair")}
    assert {"whole", "Fréchet", "precision", "sharpness", "pixel diversity"} <= set(
        rows["renoise", "pair"]["values"]
    )
    assert abs(sum(rows["renoise", "pair"]["weights"][0].values()) - 1) < 1e-6
    page = (workdir / "ablation.html").read_text()
    assert page.count("<img") == 3 * 2 and "student/score_gap" in page


def test_what_is_done_is_not_done_again(run, capsys):
    arguments, workdir = run
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("stage.json")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("stage.json")} == before
    assert capsys.readouterr().out.splitlines()[-1] == str(workdir / "ablation.html")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("match.student_optimiser.learning_rate=0.5", "'match' of another config"),
        ("guide.guide.guidance_scale=9.0", "'guide' of another config"),
        ("evaluate.seed=8", "'judged' of another config"),
        ("split.student_optimiser.learning_rate=0.5", "'split-hi' of another config"),
        ("data.train=31", "'prepare' of another config"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--table",)])
def test_a_cell_of_another_config_is_no_row_of_this_one(changed, named, more, run, capsys):
    arguments, _ = run
    assert main([*arguments, *more, f"--config.{changed}"]) == 2
    assert named in capsys.readouterr().err


def test_a_cell_does_not_go_on_at_another_rate(run, capsys):
    """A run may: a cell is told by its config."""
    arguments, workdir = run
    path = next((workdir / "cells").glob("2-renoise-*-s0")) / "match" / "stage.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"status": "running"}))
    try:
        assert main([*arguments, "--config.match.fake_optimiser.learning_rate=0.5"]) == 2
    finally:
        path.write_text(before)
    assert "fake_optimiser.learning_rate" in capsys.readouterr().err


def test_what_only_says_how_a_cell_is_carried_out_may_change(run):
    arguments, _ = run
    assert main([*arguments, "--table", "--config.match.job.checkpoint_steps=2"]) == 0


def test_a_cell_is_a_workdir_that_can_be_probed(run, capsys, tmp_path):
    _, workdir = run
    (cell,) = (workdir / "cells").glob("2-renoise-*-s0")
    sizes = ["--arms", "shared,renoised", "--inputs", "2", "--draws", "2", "--batch", "2"]
    (tmp_path / "mine.json").write_text("{}")
    assert main(["probe", "--workdir", str(cell), *sizes, "--out", f"{tmp_path}/mine.json"]) == 2
    assert "mine.json is there, and flashjax did not write it so" in capsys.readouterr().err
    asked = ["probe", "--workdir", str(cell), *sizes, "--json", "--out", f"{tmp_path}/a.json"]
    assert main(asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "a.json").read_text())
    assert told["step"] == 2 and [step["sigma"] for step in told["student_steps"]] == [1.0, 0.75]
    first = told["student_steps"][0]
    assert set(first["arms"]) == {"shared", "renoised"}
    assert {"snr", "normaliser", "guidance_cosine", "shared_loss"} <= set(first["arms"]["shared"])
    assert list(first["cosines"]) == ["shared, renoised"]
    assert first["arms"]["shared"]["noise_share"]["value"] is None or (
        first["arms"]["shared"]["noise_share"]["value"] < 0.2
    )  # of a grid of two the only later level: nothing is drawn
    assert main(["probe", "--workdir", str(cell), *sizes, "--step", "7"]) == 2
    assert "--step 7: kept are 0, " in capsys.readouterr().err


def test_a_cell_alone_comes_after_what_it_goes_on_from(tmp_path):
    """In a new workdir, where neither is done."""
    grid = read_grid(config.load(FILE))
    every = {cell.name: cell for cell in cells(grid)}
    pair = next(cell for cell in every.values() if cell.split == "pair")
    found = [cell.name for cell in with_needs(grid, pair, every, tmp_path)]
    assert found[0] == f"{pair.steps}-guided" and found[-1] == pair.name
    assert pair.matched in found and len(found) == len({*found})
    (tmp_path / "cells" / found[0]).mkdir(parents=True)
    (tmp_path / "cells" / found[0] / "broken.json").write_text('{"error": "it broke"}')
    assert found[0] not in [c.name for c in with_needs(grid, pair, every, tmp_path)]


def test_no_cell_of_this_name_is_said(run, capsys):
    arguments, _ = run
    assert main([*arguments, "--only", "nobody"]) == 2
    assert "--only nobody: --dry_run lists the cells" in capsys.readouterr().err


def test_cells_take_turns_on_the_devices_that_are_given(tmp_path, monkeypatch):
    """Three jobs on two GPUs: each process sees one of them, and passes it on when it ends."""
    seen = []

    class Process:
        def __init__(self, words, *, env, **_):
            seen.append((words[-1], env["CUDA_VISIBLE_DEVICES"], env["TPU_VISIBLE_CHIPS"]))

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    grid = read_grid(config.load(FILE))
    left = cells(grid)[:3] + cells(grid)[3:7]
    options = argparse.Namespace(config=str(FILE), workdir=str(tmp_path), jobs=3)
    done = list(beside(options, [], grid, tmp_path, left, ["4", "6"]))
    assert [cell for cell, problem in done if not problem] and len(seen) == len(done) == 7
    assert {name for name, _, _ in seen} == {cell.name for cell in left}
    assert {gpu for _, gpu, _ in seen} == {"4", "6"} and all(gpu == tpu for _, gpu, tpu in seen)


@pytest.mark.parametrize("code", [0, 2])
def test_who_hands_out_devices_takes_none(code, tmp_path, monkeypatch):
    """A chip has one process: what cells share is made in one of its own, too."""
    seen, taken = [], []

    class Process:
        def __init__(self, words, *, env, **_):
            seen.append((words[-1], env["TPU_VISIBLE_CHIPS"]))

        def wait(self):
            return code

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(command.jax.config, "update", lambda *told: taken.append(told))
    monkeypatch.setattr(command.os, "environ", dict(os.environ))
    take_devices(2, ["4", "6"], 1)
    assert taken == [("jax_platforms", "cpu")] and "TPU_VISIBLE_CHIPS" not in command.os.environ
    options = argparse.Namespace(config=str(FILE), workdir=str(tmp_path), jobs=2)
    told = pytest.raises(InputError, match=r"shared/log\.txt says why") if code else nullcontext()
    with told:
        share_beside(options, [], tmp_path, ["4", "6"])
    assert seen == [("shared", "4")]


def test_data_of_ones_own_leaves_what_cells_share(tmp_path, monkeypatch):
    """Only a task writes its data to a workdir; judges keep things there, too."""
    for stage in ("import", "prepare"):
        (tmp_path / at_work.SHARED / stage).mkdir(parents=True)
    for stage in (at_work.import_teacher, at_work.prepare):
        monkeypatch.setattr(stage, "run", lambda config, place: None)
    monkeypatch.setattr(at_work, "judge_teacher", lambda config, place: None)
    at_work.share(config.load(FILE), tmp_path)
    for name in at_work.FIRST:
        at_work.link(tmp_path / name, tmp_path / at_work.SHARED / name)


def test_a_table_of_somebody_elses_is_not_written_over(tmp_path, capsys):
    (tmp_path / "ablation.json").write_text("mine")
    words = ["ablate", "--config", f"{FILE}:smoke", "--workdir", str(tmp_path)]
    assert main(words) == 2
    assert "ablation.json is there, and no ablation is" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ablation.json"]


def test_devices_that_are_no_numbers_are_refused(tmp_path, capsys):
    words = ["ablate", "--config", str(FILE), "--workdir", str(tmp_path), "--devices", "0,gpu1"]
    assert main(words) == 2
    assert "--devices 0,gpu1: give numbers" in capsys.readouterr().err


REFUSED = {
    "evaluate.samples=501": "1000 samples are held out, and 1002 are needed",
    "evaluate.samples=3": "digit_scenes needs 4 pictures, 3 are to be drawn",
    "evaluate.prompts=mine.txt": "evaluate.prompts: cells draw held-out captions",
    "evaluate.judges=()": "evaluate.judges is empty",
    "data.source=nowhere": "nowhere",
    "ablate.halving=()": "ablate.arms.halved: match.match.halved=0.5: student.steps=1 has no half",
    "match.prompts=nowhere.txt": "match.prompts",
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_a_cell_would_stumble_over_is_refused_before_anything_is_prepared(
    told, tmp_path, capsys
):
    words = ["ablate", "--config", str(FILE), "--workdir", str(tmp_path / "run")]
    assert main([*words, f"--config.{told}"]) == 2
    assert REFUSED[told] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_no_cells_grid_has_is_said_of_the_cell_before_any_is_trained(tmp_path, capsys):
    """The recipe's own steps and branches are no cell's."""
    flags = [
        "ablate",
        "--config",
        str(FILE),
        "--workdir",
        str(tmp_path / "w"),
        "--only",
        "1-guided",
    ]
    flags += ["--config.simulate_devices=0", "--config.match.match.renoise=(0.02,0.7)"]
    assert main(flags) == 2
    told = capsys.readouterr().err
    assert "4-interval-t0.1-p0.02-s0: match.match.renoise=(0.02, 0.7): the student's grid" in told
    assert "4-renoise" not in told and not (tmp_path / "w").exists()


def test_a_recipe_whose_own_branches_fit_no_cell_is_an_ablations_all_the_same():
    recipe = ["student.steps=1", "match.match.halved=0.0"]
    given = config.load(f"{FILE}:smoke", recipe)
    assert preflight.of_cells(given, kinds_of(given, read_grid(given))) == []


def test_devices_are_chosen_before_anything_looks_at_one(monkeypatch, tmp_path, capsys):
    order = []

    def look(*arguments):
        order.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        return ["looked"]

    monkeypatch.setattr(command, "simulate_devices", order.append)
    monkeypatch.setattr(command.preflight, "of_cells", look)
    monkeypatch.setattr(command.os, "environ", dict(os.environ))
    flags = ["--config", f"{FILE}:smoke", "--workdir", str(tmp_path), "--devices", "3"]
    assert main(["ablate", *flags]) == 2 and "looked" in capsys.readouterr().err
    assert order == [1, "3"]
