"""Who a process is, from what its launcher left in the environment."""

import pytest

from flashjax.parallel.hosts import Job, job_of
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
    ],
)
def test_half_an_environment_is_an_error(change, message):
    with pytest.raises(InputError, match=message):
        job_of({**EXPLICIT, **change})
