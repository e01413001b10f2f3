"""Two real processes, one of which is told to stop: both end after the same step."""

import os
import signal
import socket
import subprocess
import sys

JOB = """
import itertools, os, time
from flashjax.parallel.hosts import initialise
from flashjax.train.loop import Interrupted, loop
initialise(os.environ)

def step(state, batch):
    time.sleep(0.02)
    return state + 1, {}

def say(number, state, metrics):
    if number == 3:
        print("going", flush=True)

def save(number, state):
    print("saved", number, state, flush=True)

try:
    loop(step, 0, itertools.count(), start=0, stop=3000, hooks=[say], save=save)
except Interrupted as error:
    print("ended", error.step, flush=True)
"""


def test_processes_end_after_the_same_step_when_one_of_them_is_told_to_stop():
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
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JOB],
            env=os.environ | shared | {"FLASHJAX_PROCESS": str(number)},
            **pipes,
        )
        for number in range(2)
    ]
    try:
        for process in running:
            assert "going\n" in iter(process.stdout.readline, "")  # gloo has its say before
        running[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    (first, _), (second, _) = said
    assert first == second and first.startswith("saved ")
    _, step, state = first.splitlines()[0].split()
    assert 3 < int(step) == int(state) < 3000 and f"ended {step}\n" in first
