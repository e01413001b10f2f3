"""The bench of starts reads what a job says of itself, and stops it."""

import sys

import pytest

from flashjax.tools.bench.startup import first_step, run
from flashjax.types import InputError

JOB = """
import sys, time
print("10:00:00 guide: first step 12.5 s after the command, itself 3.5 s", file=sys.stderr)
sys.stderr.flush()
time.sleep(60)
"""


def test_a_job_is_stopped_after_its_first_step():
    found = first_step([sys.executable, "-c", JOB])
    assert found["itself"] == 3.5 and 0 < found["wall"] < 30


def test_a_job_without_a_first_step_is_told_with_its_last_line():
    with pytest.raises(InputError, match="before its first step: flashjax: no such thing"):
        first_step([sys.executable, "-c", "import sys; sys.exit('flashjax: no such thing')"])


def test_a_workdir_that_has_a_guide_is_refused(tmp_path):
    (tmp_path / "guide").mkdir()
    with pytest.raises(InputError, match="a workdir of its own"):
        run("c.py", [], tmp_path)
