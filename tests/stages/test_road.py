"""The whole road at its smallest: stages run, are skipped when done, and refuse what differs."""

import json
from pathlib import Path

import pytest

from flashjax.cli import main
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


@pytest.fixture(scope="module")
def road(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run and its arguments."""
    workdir = tmp_path_factory.mktemp("road")
    arguments = ["--config", str(CONFIG), "--workdir", str(workdir), *small(tiny_teacher)]
    assert main(["run", *arguments]) == 0
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


def test_a_finished_road_is_skipped(road, caplog):
    workdir, arguments = road
    before = (workdir / "match" / "stage.json").read_text()
    assert main(["run", *arguments]) == 0
    assert (workdir / "match" / "stage.json").read_text() == before


def test_a_workdir_of_another_config_is_refused_in_one_line(road, capsys):
    _, arguments = road
    assert main(["match", *arguments, "--config.match.match.eta=1.0"]) == 2
    message = capsys.readouterr().err.strip()
    assert "match.eta" in message and len(message.splitlines()) == 1


def test_branches_start_from_the_matched_student_and_part(road):
    workdir, _ = road
    records = (workdir / "split" / "metrics" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(records[-1])
    assert last["lo/student/matching_loss"] != last["hi/student/matching_loss"]
