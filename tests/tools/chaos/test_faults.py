"""Faults: what a process that behaves and one that does not get told, in milliseconds."""

import argparse
import random
import sys

import pytest

from flashjax.parallel import signals
from flashjax.tools.chaos import faults
from flashjax.tools.chaos.command import FIRST, UNBROKEN, Chaos, _mine
from flashjax.tools.chaos.compare import differences, results
from flashjax.types import InputError

OBEYS = "import signal,sys,time; signal.signal(15, lambda *_: sys.exit(75)); print(1, flush=True)"
DEAF = "import signal,time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"


def test_signals_end_a_process_that_obeys(tmp_path, job_of):
    faults.kill(job_of(tmp_path, OBEYS, OBEYS), random.Random(0))
    faults.terminate(job_of(tmp_path, OBEYS, OBEYS), random.Random(0))


def test_who_stays_when_the_other_is_gone_is_found_out(tmp_path, job_of, monkeypatch):
    monkeypatch.setattr(faults, "ALONE_SECONDS", 0.2)
    job = job_of(tmp_path, OBEYS, OBEYS)
    with pytest.raises(TimeoutError, match=r"did not end within"):
        faults.kill_one(job, random.Random(0))
    assert job.codes() == {faults.KILLED}


def test_a_signal_to_one_reaches_no_other(tmp_path, job_of):
    job = job_of(tmp_path, OBEYS, OBEYS)
    job.send(15, job.processes[1:])
    assert (job.processes[1].wait(), job.processes[0].poll()) == (75, None)
    job.send(9)


def test_a_process_that_does_not_obey_is_found_out(tmp_path, job_of, monkeypatch):
    monkeypatch.setattr(faults, "PATIENCE_SECONDS", 0.2)
    job = job_of(tmp_path, DEAF)
    with pytest.raises(TimeoutError, match=r"did not end within"):
        job.send(15)
        job.codes(0.2)
    assert job.codes() == {faults.KILLED}


def test_another_code_is_wrong(tmp_path, job_of):
    job = job_of(tmp_path, OBEYS.replace("75", "1"))
    with pytest.raises(AssertionError, match=r"exit codes \[1\], of \[0, 75\] were right"):
        faults.terminate(job, random.Random(0))


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "round-0").mkdir()
    (tmp_path / "chaos").write_text("a file of that name")
    with pytest.raises(InputError, match="holds something else"):
        _mine(tmp_path)
    assert _mine(_mine(tmp_path / "new")).is_dir()


def test_a_chaos_that_is_stopped_leaves_no_run_behind(tmp_path, monkeypatch):
    sleeps = tmp_path / "sleeps"
    sleeps.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeps.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeps))
    monkeypatch.setattr(signals._process, "before_end", [])
    options = argparse.Namespace(processes=2, own_disk=False, config="c.py")
    job = Chaos(tmp_path, options, [], ["guide"])._start(tmp_path / "w", ["run"])
    for call in signals._process.before_end:
        call(75)
    assert job.codes(5.0) == {faults.KILLED}


def test_an_unbroken_run_that_is_there_is_not_started_again(tmp_path, finished, monkeypatch):
    finished(tmp_path / FIRST, 1.0)
    same = finished(tmp_path / UNBROKEN, 1.0)
    monkeypatch.setattr(signals._process, "before_end", [])
    options = argparse.Namespace(processes=1, own_disk=False, config="c.py")
    chaos = Chaos(tmp_path, options, [], ["guide"])
    monkeypatch.setattr(chaos, "_start", lambda *_: pytest.fail("it was started"))
    chaos.unbroken()
    (same / "guide" / "student.gguf").write_bytes(b"bites")
    with pytest.raises(InputError, match=r"two unbroken runs differ: guide/student\.gguf"):
        chaos.unbroken()


def test_runs_are_compared_to_the_last_bit_but_for_times(tmp_path, finished):
    one, same, other = (finished(tmp_path / n, x) for n, x in [("a", 1.0), ("b", 1.0), ("c", 2.0)])
    assert not differences(results(one), results(same))
    assert differences(results(one), results(other)) == ["guide/metrics/metrics.jsonl"]
    (same / "guide" / "student.gguf").write_bytes(b"bites")
    assert differences(results(one), results(same)) == ["guide/student.gguf"]
