"""What a later job would refuse is said before the first one begins."""

from pathlib import Path

import pytest

from flashjax.stages.match import matching_of
from flashjax.tools import preflight, sections
from flashjax.train.trackers import TRACKERS
from flashjax.types import InputError

NANO = str(Path(__file__).parents[2] / "configs" / "nano.py")
JUDGED = "match.job.judge_steps=20"
HELD = "job.judged=1200: 1000 captions are held back beside the 500 that are reported"
WHOLE = ("match.match.halved=0", "match.match.through=True")


def found(tmp_path, *overrides, stages=tuple(preflight.ROAD)):
    return preflight.problems(sections.load(NANO, overrides), tmp_path / "run", stages)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["split.job.sample_steps=2"], "split.job.sample_steps: branches draw no pictures yet"),
        (["split.job.judge_steps=12"], "split.job.judge_steps: branches draw no pictures yet"),
        ([JUDGED, "evaluate.judges=()"], "match.job.judge_steps: evaluate.judges names nobody"),
        ([JUDGED, "match.job.judged=1200"], f"match.{HELD}"),
        (["match.job.trackers=absent"], "match.job.trackers: absent is not installed"),
        (["match.warmup_steps=60"], "match.warmup_steps=60 leaves none of match.job.steps=60"),
    ],
)
def test_what_a_later_job_would_refuse_is_said_before_guide(tmp_path, monkeypatch, overrides, said):
    monkeypatch.setitem(TRACKERS, "absent", None)
    (line,) = found(tmp_path, *overrides)
    assert line.startswith(said)


def test_a_job_that_can_be_judged_and_drawn_has_no_problem(tmp_path):
    assert found(tmp_path, JUDGED, "match.job.judged=1000", "match.job.sample_steps=20") == []


def test_a_job_that_draws_asks_for_the_section_that_says_what(tmp_path):
    config = sections.load(NANO).unlock()
    del config.evaluate
    (line,) = preflight.problems(config, tmp_path / "run", ["guide"])
    assert line.startswith("guide.job.sample_steps: the config has no section evaluate")


def test_a_student_of_one_step_has_none_to_match_through():
    config = sections.load(NANO, ["student.steps=1", *WHOLE])
    with pytest.raises(InputError, match=r"through=True: student.steps=1 has no later steps"):
        matching_of(config, "match")
