"""Signs of life: the last step is noted, silence is explained, an end is no silence."""

import json
import os
import subprocess
import sys
import time

import pytest

from flashjax.parallel import watch
from flashjax.train.heartbeat import heartbeat


@pytest.fixture(autouse=True)
def nobody_leaves(monkeypatch):
    """A process that hangs ends; here it would be that of the tests, were it ever so slow."""
    monkeypatch.setattr(watch, "LEAVE_SECONDS", 3600.0)


def stacks_after(folder, *, seconds, until, step=7):
    """What process 3 has written about its threads, once `until` of it holds."""
    with heartbeat(folder, 3, stall_seconds=seconds) as hook:
        if step:
            hook(step, None, {})
        deadline = time.monotonic() + 60
        while not until((folder / "stacks-3.txt").read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
    return (folder / "stacks-3.txt").read_text()


def test_a_process_that_falls_silent_says_where_it_is(tmp_path):
    text = stacks_after(tmp_path, seconds=0.05, until=lambda text: "stacks_after" in text)
    assert "process 3: step 7; stacks follow if that is all for 0.05 s" in text
    assert "test_heartbeat.py" in text  # the line that waits
    assert json.loads((tmp_path / "heartbeat-3.json").read_text())["step"] == 7


def test_a_first_step_that_never_ends_is_a_hang_too(tmp_path):
    text = stacks_after(tmp_path, seconds=0.05, until=lambda text: "stacks_after" in text, step=0)
    assert "process 3: step 0;" in text and "stacks_after" in text


def test_the_log_says_how_far_every_process_came(tmp_path, caplog):
    for process, step in ((0, 7), (1, 6), (10, 7)):
        (tmp_path / f"heartbeat-{process}.json").write_text(
            json.dumps({"at": f"step {step}", "step": step})
        )

    def told():  # on a busy machine the start was a silence, too, and the test before is heard yet
        return [
            r for r in caplog.records if f"{tmp_path}/" in r.message and "after step 7" in r.message
        ]

    stacks_after(tmp_path, seconds=0.05, until=lambda _: told())
    record = told()[0]
    assert record.levelname == "ERROR" and "nothing is heard after step 7" in record.message
    assert "step 6: process 1; step 7: process 0, 3, 10" in record.message
    assert f"{tmp_path}/stacks-*.txt" in record.message


def test_a_process_that_goes_on_says_nothing_of_its_threads(tmp_path):
    text = stacks_after(tmp_path, seconds=1000.0, until=lambda text: True)
    assert len(text.splitlines()) == 1


HANG = """
import time
from pathlib import Path
from flashjax.parallel import signals, watch
from flashjax.train import heartbeat
signals.listen("flashjax toy")
watch.LEAVE_SECONDS = 0.1
with heartbeat.heartbeat(Path("hosts"), 0, stall_seconds=0.1) as hook:
    hook(7, None, {})
    time.sleep(600)
"""


def test_a_process_that_hangs_leaves_to_be_started_again_and_its_stacks_stay(tmp_path):
    environment = os.environ | {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    for _ in range(3):
        words = [sys.executable, "-c", HANG]
        run = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 75
        assert run.stderr.splitlines()[-1].startswith("flashjax toy: a hang after step 7; ")
    kept = sorted((tmp_path / "hosts").glob("stacks-*.txt"))
    assert [path.name for path in kept] == ["stacks-0.1.txt", "stacks-0.2.txt", "stacks-0.txt"]
    assert all("most recent call first" in path.read_text() for path in kept)
