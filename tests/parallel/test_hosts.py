"""Who a process is, from what its launcher left in the environment."""

import os
import socket
import subprocess
import sys

import pytest

from flashjax.parallel.hosts import MEET, Job, initialise, job_of
from flashjax.types import InputError

JOBSET = {
    "JOBSET_NAME": "flash",
    "REPLICATED_JOB_NAME": "slice",
    "JOB_INDEX": "1",
    "JOB_COMPLETION_INDEX": "2",
    "FLASHJAX_PROCESSES": "8",
    "FLASHJAX_PROCESSES_PER_JOB": "4",
}
EXPLICIT = {"FLASHJAX_COORDINATOR": "h0:1234", "FLASHJAX_PROCESSES": "2", "FLASHJAX_PROCESS": "1"}


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, Job("slurm")),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1"}, Job("tpu")),
        ({"FLASHJAX_DISTRIBUTED": "auto"}, Job("auto")),
        (EXPLICIT, Job("explicit", "h0:1234", 2, 1)),
        ({**EXPLICIT, "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, Job("explicit", "h0:1234", 2, 1)),
        (JOBSET, Job("jobset", "flash-slice-0-0.flash:8476", 8, 6)),
    ],
)
def test_a_process_finds_its_job(environment, job):
    assert job_of(environment) == job


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"FLASHJAX_PROCESS": ""}, "FLASHJAX_PROCESS is not set"),
        ({"FLASHJAX_PROCESS": "2"}, "process 2 of 2"),
        ({"FLASHJAX_PROCESSES": "two"}, "whole numbers"),
        ({"FLASHJAX_COORDINATOR": "h0"}, "HOST:PORT"),
        ({"FLASHJAX_COORDINATOR": "h0:84760"}, "a port below 65536"),
    ],
)
def test_half_an_environment_is_an_error(change, message):
    with pytest.raises(InputError, match=message):
        job_of({**EXPLICIT, **change})


@pytest.mark.parametrize(
    "change",
    [
        JOBSET | {"JOB_INDEX": ""},
        JOBSET | {"FLASHJAX_PROCESSES": "two"},
        JOBSET | {"FLASHJAX_PROCESSES_PER_JOB": ""},
        JOBSET | {"JOB_COMPLETION_INDEX": "-1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8(x2)"},
    ],
)
def test_counts_of_launchers_are_whole_numbers(change):
    with pytest.raises(InputError, match="is to be a whole number"):
        job_of(change)


@pytest.mark.parametrize("told", ["1", "Auto"])
def test_a_word_for_finding_the_others_is_never_passed_over(told):
    with pytest.raises(InputError, match=f"FLASHJAX_DISTRIBUTED={told}: write auto, or unset it"):
        job_of({"FLASHJAX_DISTRIBUTED": told})


@pytest.mark.parametrize(
    ("environment", "said_by"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, "SLURM_NTASKS=8"),  # a batch script's shell
        ({"FLASHJAX_DISTRIBUTED": "auto"}, "FLASHJAX_DISTRIBUTED=auto"),
    ],
)
def test_a_process_whose_launcher_says_nothing_of_the_others_is_told_so(environment, said_by):
    code = f"from flashjax.parallel import hosts; hosts.initialise({environment})"
    words = [sys.executable, "-c", code]
    ended = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)
    last = ended.stderr.splitlines()[-1]
    assert "InputError" in last and said_by in last and "start each by their launcher" in last


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_whose_others_never_come_leaves_with_a_line_and_is_started_again(process):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{found.getsockname()[1]}"
    job = EXPLICIT | {"FLASHJAX_COORDINATOR": where, "FLASHJAX_PROCESS": str(process), MEET: "1"}
    code = "from flashjax.parallel import hosts, signals; signals.listen(); import os; "
    words = [sys.executable, "-c", code + "hosts.initialise(os.environ)"]
    ended = subprocess.run(words, env=os.environ | job, capture_output=True, text=True, timeout=90)
    assert ended.returncode == 75
    (line,) = ended.stderr.splitlines()
    assert "the processes of this job have not met within 1 s" in line and MEET in line


@pytest.mark.parametrize("told", ["0", "soon", "-1", "1.5"])
def test_how_long_processes_wait_is_in_whole_seconds(told):
    with pytest.raises(InputError, match="whole seconds, 1 or more"):
        initialise({**EXPLICIT, MEET: told})
