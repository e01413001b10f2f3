"""Real processes over loopback: the numbers of one process, checkpoints for any number of them."""

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

JOB = Path(__file__).with_name("job.py")


def begin(environment, commands):
    """Processes that are one job, each with its own words after `python`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for number, words in enumerate(commands):
        whose = {
            **environment,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ":".join(path for path in sys.path if path),
            "FLASHJAX_COORDINATOR": f"127.0.0.1:{port}",
            "FLASHJAX_PROCESSES": str(len(commands)),
            "FLASHJAX_PROCESS": str(number),
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, *map(str, words)]
        running.append(subprocess.Popen(command, env=whose, **pipes))
    return running


def start(environment, processes, folder, first, last):
    """Runs the job in so many processes, with four devices together; the losses of each."""
    running = begin(environment, [[JOB, folder, first, last]] * processes)
    try:
        said = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, error) in zip(running, said, strict=True):
        assert process.returncode == 0, error[-2000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@pytest.fixture(scope="module")
def job():
    spec = importlib.util.spec_from_file_location("job", JOB)
    module = importlib.util.module_from_spec(spec)
    sys.modules["job"] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_four_processes_save_what_two_restore_and_both_give_the_losses_of_one(
    job, undivided, tmp_path
):
    want = job.run(tmp_path / "one", 0, 4, jax.devices()[:4])
    four = start(undivided, 4, tmp_path / "many", 0, 2)
    two = start(undivided, 2, tmp_path / "many", 2, 4)
    assert len(set(want)) == 4  # every step has its own loss, or this shows nothing
    for losses in four:
        np.testing.assert_allclose(losses, want[:2], rtol=1e-5)
    for losses in two:
        np.testing.assert_allclose(losses, want[2:], rtol=1e-5)


def test_branches_stacked_over_two_processes_are_separate_jobs(job, undivided):
    """Each process has the devices of one branch, and each job those of its own branch alone."""
    stacked = start(undivided, 2, "branches", 0, 3)
    assert [list(losses) for losses in stacked] == [["0"], ["1"]]
    for number, losses in enumerate(stacked):
        alone = job.run_branches(1, 3, first=number, devices=jax.devices()[:2])
        np.testing.assert_allclose(losses[str(number)], alone[str(number)], rtol=1e-5)
    assert stacked[0]["0"] != stacked[1]["1"]  # they draw their own random numbers


ASKED = """
import os, sys
from flashjax.parallel.hosts import initialise
from flashjax.stages.stage import run_stage
from flashjax.types import InputError
initialise(os.environ)
workdir, rate, told = sys.argv[1:]
try:
    body = lambda folder: print("at work", flush=True) or {}
    run_stage("toy", {"rate": rate}, workdir, body, inputs={"told": told}, seed=0)
except InputError as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize(
    ("rate", "told", "said"),
    [("1", "a", "at work"), ("2", "a", "same config:"), ("1", "b", "inputs")],
)
def test_a_stage_begins_where_all_processes_ask_for_the_same(undivided, tmp_path, rate, told, said):
    for name in "ab":
        (tmp_path / name).write_text(name)
    words = ["-c", ASKED, tmp_path / "run"]
    job = [*words, "1", tmp_path / "a"], [*words, rate, tmp_path / told]
    running = begin(undivided, job)
    try:
        heard = [process.communicate(timeout=100)[0].splitlines()[-1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(said in line for line in heard)
    assert (tmp_path / "run").exists() == (said == "at work")


def test_one_process_that_is_refused_ends_all_with_its_own_code(undivided, tmp_path):
    """The other one waits for it; at a usual end each would wait for the other for minutes."""
    config = Path(__file__).parents[2] / "configs" / "nano.py"
    words = ["-m", "flashjax", "import", "--config", config, "--workdir", tmp_path]
    words += ["--config.simulate_devices=1", "--config.mesh.data=2"]
    running = begin(undivided, [words, [*words, "--config.teacher.source=nowhere"]])
    try:
        said = [process.communicate(timeout=100)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [2, 2], said
    (refused,) = said[1].splitlines()
    assert refused.startswith("flashjax import: ") and "nowhere" in refused
    assert said[0].splitlines()[-1] == "flashjax import: process 1 has ended with code 2"
