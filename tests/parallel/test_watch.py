"""A stage of several processes in which one hangs, far from any step: all say where, and leave."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashjax.parallel import watch

JOB = """
import os, sys, time
from pathlib import Path
from flashjax.parallel import signals, watch
from flashjax.parallel.hosts import initialise, is_first, meet
from flashjax.stages import stage
signals.listen("flashjax toy")
initialise(os.environ)
watch.STALL_SECONDS, watch.LEAVE_SECONDS = 5.0, 2.0
sweep = stage.sweep

def slow_sweep(folder):
    time.sleep(1.0)
    sweep(folder)
    (folder / "swept").touch()

stage.sweep = slow_sweep

def body(folder):
    assert (folder / "swept").exists()  # drafts of this job would be swept with those of another
    meet("the cache is planned")
    for shard in range(4):
        watch.alive(f"shard {shard}")
        if is_first():
            time.sleep(2.5)  # the other waits longer than it may be silent, for one that is alive
    while is_first() and "hang" in sys.argv:
        time.sleep(0.1)
    meet("all shards are there")
    return {"shards": 4}

print(stage.run_stage("toy", {}, Path(sys.argv[1]), body, inputs={}, seed=0), flush=True)
"""


def start(workdir, *words):
    """The job in two processes, to its end: their codes, and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONPATH": ":".join(path for path in sys.path if path),
        "FLASHJAX_COORDINATOR": f"127.0.0.1:{port}",
        "FLASHJAX_PROCESSES": "2",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, str(workdir), *words],
            env=os.environ | shared | {"FLASHJAX_PROCESS": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=180)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], said


def test_who_waits_for_one_that_is_alive_waits_on_and_a_good_end_leaves_nothing(
    tmp_path,
):
    codes, said = start(tmp_path)
    assert codes == [0, 0], said
    assert not (tmp_path / "toy" / "hosts").exists()


def test_a_stage_that_hangs_outside_training_ends_with_what_every_process_was_at(tmp_path):
    codes, said = start(tmp_path, "hang")
    assert codes == [75, 75], said
    hosts = tmp_path / "toy" / "hosts" / "stage"
    assert "shard 3: process 0; waits until all shards are there: process 1" in "".join(said)
    assert "a hang after " in "".join(said) and "run the same command again" in "".join(said)
    stacks = [(hosts / f"stacks-{process}.txt").read_text() for process in range(2)]
    assert all("in body" in text for text in stacks)  # the line that waits
    assert "in meet" in stacks[1] and "in meet" not in stacks[0]
    assert json.loads((hosts / "heartbeat-0.json").read_text())["at"] == "shard 3"


def test_the_watch_of_a_stage_rests_while_another_counts(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(watch, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(watch, "LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(watch.signals, "end", ended.append)
    with watch.watched(tmp_path / "hosts" / "stage", 0, "toy begins"):
        with watch.resting():
            watch.alive("a step of another's")
            time.sleep(0.6)
        assert not ended
        note = json.loads((tmp_path / "hosts" / "stage" / "heartbeat-0.json").read_text())
        assert note["at"] == "what follows its steps"
        deadline = time.monotonic() + 60
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ended and ended[0].startswith("a hang after what follows its steps; ")


def test_processes_of_an_earlier_larger_start_are_forgotten(tmp_path):
    for number in (0, 1, 12):
        (tmp_path / f"heartbeat-{number}.json").write_text('{"at": "step 3"}')
    watch.Watch(tmp_path, 0, stall_seconds=60.0)
    assert [path.name for path in tmp_path.glob("heartbeat-*")] == ["heartbeat-0.json"]
    assert "process 0)" in watch.said_of(tmp_path, "step 4")


@pytest.mark.parametrize("inside", [False, True])
def test_without_a_watch_a_sign_of_life_is_none(tmp_path: Path, inside):
    with watch.resting() if inside else watch.watched(tmp_path / "a" / "b", 0, "it begins"):
        watch.alive("nothing")
    assert not list(tmp_path.rglob("*.json"))
