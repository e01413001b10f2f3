"""Launchers: what they would submit has the shape that each scheduler wants."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("launch", Path("launch/launch.py"))
launch = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(launch)
XPK = ("--image", "i", "--cluster", "c", "--zone", "z")
BASE = ["--config", "configs/sd35_medium_v6e_64.py", "--workdir", "/shared/run", "--dry_run"]


def printed(capsys, *arguments):
    assert launch.main([*arguments, *BASE]) == 0
    return capsys.readouterr().out


def test_slurm_makes_an_array_of_branches_and_asks_again_when_interrupted(capsys):
    text = printed(capsys, "slurm", "--target", "h100:64", "--separate", "--verbs", "split")
    directives = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )
    assert directives["array"] == "0-1" and directives["nodes"] == "8"
    assert directives["ntasks-per-node"] == directives["gpus-per-node"] == "8"
    assert "requeue" in directives and directives["signal"].startswith("TERM@")
    assert "split.only=lo" in text and "split.only=hi" in text
    assert 'if [ "$code" -eq 75 ]; then scontrol requeue' in text


@pytest.mark.parametrize(("slices", "pods"), [(1, 16), (2, 16)])
def test_a_jobset_has_a_job_for_each_slice_and_a_pod_for_each_host(capsys, slices, pods):
    target = ["--target", "v6e:8x8", "--slices", str(slices), "--image", "registry/flashjax"]
    target += ["--set", f"mesh.dcn.data={slices}", "--set", f"split.mesh.dcn.data={slices}"]
    record = json.loads(printed(capsys, "jobset", *target).partition("\n")[2])
    assert record["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and record["kind"] == "JobSet"
    (role,) = record["spec"]["replicatedJobs"]
    job = role["template"]["spec"]
    assert role["replicas"] == slices and job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == pods and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "8x8"
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert "flashjax match" in container["command"][-1]
    (rule,) = job["podFailurePolicy"]["rules"]  # wrong input is not tried again
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    assert record["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"


def test_a_branch_that_is_a_job_has_a_slice_of_its_own(capsys):
    """The two-slice recipe, a job for each branch: the mesh loses its axis between slices."""
    recipe = ["--config", "configs/sd35_medium_v6e_2x64_split.py", "--verbs", "split"]
    target = ["--target", "v6e:8x8", "--image", "i", "--separate"]
    assert launch.main(["jobset", *BASE, *target, *recipe]) == 0
    texts = capsys.readouterr().out.split("# kubectl")[1:]
    for text, branch in zip(texts, ("hi", "lo"), strict=True):
        record = json.loads(text.partition("\n")[2])
        assert record["metadata"]["name"] == f"flashjax-{branch}"
        assert record["spec"]["replicatedJobs"][0]["replicas"] == 1
        assert f"--config.split.only={branch}" in text


def test_a_jobset_of_gpus_says_who_is_who(capsys):
    text = printed(capsys, "jobset", "--target", "h100:64", "--image", "i")
    record = json.loads(text.partition("\n")[2])
    pod = record["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    names = {entry["name"] for entry in pod["containers"][0]["env"]}
    wanted = {"JOBSET_NAME", "REPLICATED_JOB_NAME", "JOB_INDEX", "FLASHJAX_PROCESSES"}
    assert wanted <= names  # what flashjax.parallel.hosts reads, with Kubernetes' own index
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_xpk_and_tpu_vms_get_their_names_for_a_slice(capsys):
    text = printed(capsys, "xpk", "--target", "v6e:8x8", *XPK)
    words = shlex.split(text)
    assert words[:3] == ["xpk", "workload", "create"]
    assert words[words.index("--tpu-type") + 1] == "v6e-64" and "--num-slices=1" in words
    create, start = printed(capsys, "tpu-vm", "--target", "v5p:4x4x8", "--zone", "z").splitlines()
    words = shlex.split(create)
    assert words[3:5] == ["queued-resources", "create"]
    assert words[words.index("--accelerator-type") + 1] == "v5p-256"  # cores, two a chip
    assert "--worker=all" in shlex.split(start)


def test_local_processes_are_told_where_to_meet(capsys):
    assert "2 processes: flashjax guide" in printed(capsys, "local")
    assert launch.local_environment(1, 2, 8476)["FLASHJAX_PROCESS"] == "1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("jobset", "--target", "v6e:8x8"), "needs --image"),
        (("slurm", "--target", "v6e:8x8"), "take jobset"),
        (("tpu-vm", "--target", "h100:8", "--zone", "z"), "starts TPUs"),
        (("slurm", "--target", "h100:64", "--separate"), "--separate is for"),
        (("slurm", "--target", "h100:64", "--set", "match.typo=1"), "no key match.typo"),
        (("slurm", "--target", "cpu:4"), "wants v5e"),
        (("slurm", "--target", "h100:24"), "24 device(s): 24 is not a multiple of 16"),
        (
            ("xpk", "--target", "v6e:8x8", "--slices", "2", *XPK),
            "data=-1 fsdp=16 context=1 tensor=1 does not fit 128 device(s): slices: 2",
        ),
    ],
)
def test_what_cannot_be_submitted_is_said_before(capsys, arguments, message):
    assert launch.main([*arguments, *BASE]) == 2
    assert message in capsys.readouterr().err
