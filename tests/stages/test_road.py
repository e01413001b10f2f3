"""The whole road at its smallest: stages run, are skipped when done, and refuse what differs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flashjax.stages.stage import read_stage

CONFIG = Path(__file__).parents[2] / "configs" / "nano.py"
STAGES = (
    "import",
    "prepare",
    "guide",
    "match",
    "split",
    "merge",
    "export",
    "quantize",
    "evaluate",
    "report",
)


def small(teacher: Path) -> list[str]:
    """Overrides that make every stage as short as it can be."""
    sizes = {
        "teacher.source": teacher,
        "match.heads.taps": "0,1",
        "data.train": 32,
        "data.validation": 16,
        "evaluate.samples": 8,
        "evaluate.chunk": 8,
        "evaluate.shown": 2,
        "evaluate.teacher_steps": 3,
    }
    for stage in ("guide", "match", "split"):
        sizes |= {f"{stage}.job.steps": 2, f"{stage}.job.batch_size": 4}
        sizes |= {f"{stage}.job.log_steps": 1, f"{stage}.job.checkpoint_steps": 1}
    return [f"--config.{key}={value}" for key, value in sizes.items()]


def flashjax(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own; compilation is nearly all of its time."""
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    quick += " --xla_cpu_use_fusion_emitters=false"
    return subprocess.run(
        [sys.executable, "-m", "flashjax", *arguments],
        env=os.environ | {"XLA_FLAGS": quick},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def road(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run and its arguments."""
    workdir = tmp_path_factory.mktemp("road")
    arguments = ["--config", str(CONFIG), "--workdir", str(workdir), *small(tiny_teacher)]
    done = flashjax("run", *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    return workdir, arguments


def test_every_stage_finishes_and_says_so(road):
    workdir, _ = road
    for stage in STAGES:
        assert read_stage(workdir / stage)["status"] == "done", stage


def test_the_report_is_one_file_with_every_sampler(road):
    workdir, _ = road
    page = (workdir / "report" / "report.html").read_text()
    rows = read_stage(workdir / "evaluate")["results"]["rows"]
    assert len(rows) == 10
    assert all(row["name"] in page for row in rows)
    assert 'src="http' not in page and 'href="http' not in page


def test_a_finished_road_is_skipped_and_ends_with_its_report_again(road):
    workdir, arguments = road
    before = (workdir / "match" / "stage.json").read_text()
    again = flashjax("run", *arguments)
    assert again.returncode == 0 and "match skipped: already done" in again.stderr
    assert again.stdout.splitlines()[-1] == str(workdir.resolve() / "report" / "report.html")
    assert (workdir / "match" / "stage.json").read_text() == before


def test_a_workdir_of_another_config_is_refused_in_one_line(road):
    _, arguments = road
    refused = flashjax("match", *arguments, "--config.match.match.eta=1.0")
    assert refused.returncode == 2
    assert "match.eta" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1


def test_branches_start_from_the_matched_student_and_part(road):
    workdir, _ = road
    records = (workdir / "split" / "metrics" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(records[-1])
    assert last["lo/student/matching_loss"] != last["hi/student/matching_loss"]


def test_a_stages_folder_draws_what_its_exported_file_draws(road, tmp_path):
    """The run has the tokenizers and the other networks: no base is asked for."""
    workdir, _ = road
    pictures = []
    for name, source in (("stage", "merge"), ("file", "export/diffusers")):
        out = tmp_path / name
        flags = ("--source", str(workdir / source), "--out", str(out), "--steps", "2")
        found = flashjax("sample", "--prompt", "a red seven on white", *flags)
        assert found.returncode == 0, found.stderr
        with Image.open(out / "0000.png") as image:
            pictures.append(np.asarray(image).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 2
    assert pictures[0].std() > 1
