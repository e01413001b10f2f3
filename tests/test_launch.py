"""Launchers: what they would submit has the shape that each scheduler wants."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

from flashjax import cli
from flashjax.launch.launchers import local

XPK = ("--image", "i", "--cluster", "c", "--zone", "z", "--storage", "s")
GKE = ("--image", "i", "--claim", "runs")
VM = ("--zone", "z", "--repository", "https://example.com/flashjax.git")
H100 = ("--config", "configs/sd35_medium_h100_64.py", "--target", "h100:64")
BASE = ["--config", "configs/sd35_medium_v6e_64.py", "--workdir", "/shared/run", "--dry_run"]


def printed(capsys, *arguments):
    assert cli.main(["launch", *arguments, *BASE]) == 0
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
    assert "NCCL_ASYNC_ERROR_HANDLING" not in text  # PyTorch's own


@pytest.fixture
def cluster(tmp_path):
    """A script in a folder with an srun and an scontrol, which write down what they are told."""

    def run(text, code):
        for name, body in (("srun", f"exit {code}"), ("scontrol", ":")):
            file = tmp_path / name
            file.write_text(f'#!/bin/sh\necho {name} "$@" >>said\n{body}\n')
            file.chmod(0o755)
        (tmp_path / "script").write_text(text)
        (tmp_path / "said").write_text("")
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        environment |= {"SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_NODELIST": "n[0-7]"}
        command = ["bash", "script"]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert result.returncode == code and not result.stderr
        return (tmp_path / "said").read_text()

    return run


def test_slurm_asks_again_for_what_is_saved_and_some_times_after_crashes(capsys, tmp_path, cluster):
    words = ["slurm", *BASE, *H100, "--separate", "--verbs", "split", "--restarts", "2"]
    words[words.index("--workdir") + 1] = str(tmp_path / "a run")
    assert cli.main(["launch", *words]) == 0
    text = capsys.readouterr().out.partition("\n")[2]
    asked = "scontrol requeue 7\n"
    assert asked not in cluster(text, 0) and asked not in cluster(text, 2)
    told = [cluster(text, code) for code in (75, 75, 75, 75, 1, 137, 134, 75)]
    assert [asked in line for line in told] == [True] * 6 + [False, True]
    assert "bash -c exec flashjax split --config configs/sd35_medium_h100_64.py " in told[0]
    assert f"--workdir '{tmp_path}/a run'" in told[0] and "split.only=lo" in told[0]


@pytest.mark.parametrize("how", [("slurm",), ("jobset", *GKE)])
@pytest.mark.parametrize("across", [(), ("dcn.data=8",)])
def test_eight_hosts_of_gpus_pass_their_own_mesh_check(capsys, how, across):
    """Whether the config says what crosses hosts or leaves it to their order."""
    more = [word for key in across for word in ("--set", f"mesh.{key}")]
    if across:
        more += ["--set", "mesh.data=1", "--set", "split.mesh.data=1"]
        more += ["--set", "split.mesh.branch=1", "--set", "split.mesh.dcn.branch=2"]
        more += ["--set", "split.mesh.dcn.data=4"]
    assert cli.main(["launch", *how, *BASE, *H100, *more]) == 0
    wrong = [*more, "--set", "mesh.data=4", "--set", "mesh.dcn.data=2"]
    assert cli.main(["launch", *how, *BASE, *H100, *wrong]) == 2
    assert "hosts: 8, but the sizes under dcn make 2" in capsys.readouterr().err


@pytest.mark.parametrize(("slices", "pods"), [(1, 16), (2, 16)])
def test_a_jobset_has_a_job_for_each_slice_and_a_pod_for_each_host(capsys, slices, pods):
    target = ["--target", "v6e:8x8", "--slices", str(slices), *GKE]
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
    # The first process of the pod is the run itself: it has the signals.
    assert container["command"][:6] == ["flashjax", "run", "--from", "guide", "--to", "split"]
    assert pod["terminationGracePeriodSeconds"] >= 120
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/shared"}
    assert volume["persistentVolumeClaim"] == {"claimName": "runs"}


# What Kubernetes writes of a failed Job, by its own format strings, and what is to be done then.
FAILED = {
    "Container flashjax for pod a/b-0 failed with exit code 2 matching FailJob rule at index 0": (
        "FailJobSet"
    ),
    "Container flashjax for pod a/b-0 failed with exit code 75 matching FailJob rule at index 1": (
        "RestartJobSetAndIgnoreMaxRestarts"
    ),
    "Pod a/b-0 has condition DisruptionTarget matching FailJob rule at index 2": (
        "RestartJobSetAndIgnoreMaxRestarts"
    ),
    "Job has reached the specified backoff limit": "RestartJobSet",  # counted
}


@pytest.mark.parametrize("message", FAILED)
def test_a_jobset_is_started_again_as_its_end_deserves(capsys, message):
    text = printed(capsys, "jobset", "--target", "v6e:8x8", *GKE)
    spec = json.loads(text.partition("\n")[2])["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    codes = [rule.get("onExitCodes", {}).get("values") for rule in job["podFailurePolicy"]["rules"]]
    assert codes == [[2], [75], None] and job["backoffLimit"] == 0
    reason = "BackoffLimitExceeded" if "backoff" in message else "PodFailurePolicy"
    actions = [
        rule["action"]
        for rule in spec["failurePolicy"]["rules"]
        if reason in rule["onJobFailureReasons"]
        and any(re.search(words, message) for words in rule["onJobFailureMessagePatterns"])
    ]
    assert (*actions, "RestartJobSet")[0] == FAILED[message]  # the first rule, or the default
    assert spec["failurePolicy"]["maxRestarts"] == 10


def test_a_branch_that_is_a_job_has_a_slice_of_its_own(capsys):
    """The two-slice recipe, a job for each branch: the mesh loses its axis between slices."""
    recipe = ["--config", "configs/sd35_medium_v6e_2x64_split.py", "--verbs", "split"]
    target = ["--target", "v6e:8x8", *GKE, "--separate"]
    assert cli.main(["launch", "jobset", *BASE, *target, *recipe]) == 0
    texts = capsys.readouterr().out.split("# kubectl")[1:]
    for text, branch in zip(texts, ("hi", "lo"), strict=True):
        record = json.loads(text.partition("\n")[2])
        assert record["metadata"]["name"] == f"flashjax-{branch}"
        assert record["spec"]["replicatedJobs"][0]["replicas"] == 1
        assert f"--config.split.only={branch}" in text and '"split",' in text


def test_a_jobset_of_gpus_says_who_is_who(capsys):
    text = printed(capsys, "jobset", "--target", "h100:64", *GKE)
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
    assert words[words.index("--restart-on-exit-codes=1,75") - 1] == "--max-restarts=10"
    assert words[words.index("--storage") + 1] == "s"
    assert "v5litepod-64" in printed(capsys, "xpk", "--target", "v5e:8x8", *XPK)


def test_tpu_vms_wait_and_install_before_they_start(capsys):
    text = printed(capsys, "tpu-vm", "--target", "v5p:4x4x8", "--setup", "sudo mount x", *VM)
    create, wait, install, start = map(shlex.split, text.splitlines())
    assert create[3:5] == ["queued-resources", "create"]
    assert create[create.index("--accelerator-type") + 1] == "v5p-256"  # cores, two a chip
    assert wait[:2] == ["bash", "-c"] and "ACTIVE" in wait[2]
    steps = install[-1].split(" && ")
    assert steps[0] == "sudo mount x" and steps[2].startswith("git clone --depth 1 https://example")
    assert "pip install" in steps[-1] and "--worker=all" in install and "--worker=all" in start
    assert "exec env PATH=.venv/bin:$PATH FLASHJAX_DISTRIBUTED=auto flashjax run" in start[-1]
    for script in (wait[2], install[-1], start[-1]):
        subprocess.run(["bash", "-n", "-c", script], check=True)


# The flags of each command, from its own parser: the tests below ask those of them that are here.
FLAGS = {
    "sbatch": "job-name array nodes ntasks-per-node gpus-per-node time requeue signal open-mode "
    "output",
    "srun": "kill-on-bad-exit wait",
    "xpk": "cluster workload tpu-type num-slices docker-image max-restarts restart-on-exit-codes "
    "termination-grace-period-seconds storage zone command",
    "gcloud": "node-id node-count node-prefix zone accelerator-type runtime-version worker node "
    "command format",
}


def test_launchers_use_flags_that_their_commands_have(capsys):
    text = printed(capsys, "slurm", "--target", "h100:64")
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert set(re.findall(r"^#SBATCH --([a-z-]+)", "\n".join(lines), re.M)) <= {
        *FLAGS["sbatch"].split()
    }
    (srun,) = [line for line in text.splitlines() if line.startswith("srun ")]
    assert set(re.findall(r" --([a-z-]+)", srun)) == {*FLAGS["srun"].split()}
    for how, flags, more in (("xpk", "xpk", XPK), ("tpu-vm", "gcloud", VM)):
        for line in printed(capsys, how, "--target", "v6e:8x8", *more).splitlines():
            words = shlex.split(line)
            if words[0] == flags:
                given = {word.partition("=")[0][2:] for word in words if word.startswith("--")}
                assert given <= {*FLAGS[flags].split()}, given


@pytest.mark.skipif(not shutil.which("sbatch"), reason="sbatch is not here: slurm-client has it")
def test_sbatch_itself_reads_the_script_as_it_is_printed(capsys, tmp_path, monkeypatch):
    cluster = (
        "ClusterName=x\nSlurmctldHost=localhost\nSlurmctldPort=1\nGresTypes=gpu\nMessageTimeout=1\n"
    )
    (tmp_path / "slurm.conf").write_text(cluster + "NodeName=n1\nPartitionName=p Nodes=ALL\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    script = tmp_path / "job.sh"

    def answer(text):
        script.write_text(text)
        asked = ["sbatch", "--test-only", str(script)]
        return subprocess.run(asked, capture_output=True, text=True, timeout=120).stderr

    for more in ((), ("--separate", "--verbs", "split"), ("--setup", "module load x")):
        text = printed(capsys, "slurm", "--target", "h100:64", *more)
        assert "connect failure" in answer(text) or "contact slurm controller" in answer(text)
    (step,) = re.findall(r"^srun (.*) \\$", text, re.M)
    for flags, said in ((step, "connect failure"), (f"{step} --waits=1", "unrecognized option")):
        asked = ["srun", *shlex.split(flags), "true"]
        assert said in subprocess.run(asked, capture_output=True, text=True, timeout=120).stderr
    assert "unrecognized option" in answer(text.replace("--requeue", "--requeued"))
    assert "batch script" in answer(f"# {text}")


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not here")
def test_gcloud_itself_reads_every_flag(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")

    def answer(words):  # without an account nothing is asked of anybody
        found = [*words, "--project", "p"]
        return subprocess.run(found, capture_output=True, text=True, timeout=300).stderr

    lines = printed(capsys, "tpu-vm", "--target", "v6e:8x8", *VM).splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("gcloud")]
    create, _, start = commands
    waited = re.search(r"s=\$\((gcloud .*)\); \[", shlex.split(lines[1])[2])[1]
    told = [answer(words) for words in (create, shlex.split(waited), start)]
    if "active account" not in told[-1] and "alpha" in told[-1]:  # a component that may lack
        told.pop()
    assert all("active account" in text and "rrecognized" not in text for text in told), told
    assert "unrecognized arguments" in answer([*create, "--accelerator", "x"])


@pytest.mark.parametrize(("setup", "code"), [("export READY=yes", 0), ("false", 1)])
def test_slurm_sets_up_before_the_processes_start(capsys, tmp_path, cluster, setup, code):
    words = [
        "--target",
        "h100:64",
        "--verbs",
        "match",
        "--workdir",
        str(tmp_path),
        "--setup",
        setup,
    ]
    text = printed(capsys, "slurm", *words).replace("bash -c", "READY=$READY")
    said = cluster(text.replace("SLURM_ARRAY_TASK_ID:-0", "NONE:-0"), code)
    assert ("READY=yes" in said) == (code == 0) and "scontrol" not in said


def test_a_branch_that_fails_here_ends_the_launch_with_its_code(tmp_path, monkeypatch, capfd):
    program = tmp_path / "flashjax"
    program.write_text('#!/bin/sh\necho "$@"\nkill -9 $$\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ["local", "--verbs", "split", "--separate", "--processes", "1", *BASE]
    assert cli.main(["launch", *words]) == 0  # --dry_run tells of both
    assert "only=lo" in (told := capfd.readouterr().out) and "only=hi" in told
    assert cli.main(["launch", *words[:-1]]) not in (0, None)
    assert capfd.readouterr().out.count("split.only=") == 1


def test_local_processes_are_told_where_to_meet(capsys):
    assert "2 processes: flashjax run --from guide --to split" in printed(capsys, "local")
    assert local.local_environment(1, 2, 8476)["FLASHJAX_PROCESS"] == "1"
    assert local.local_environment(0, 1, 8476) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("jobset", "--target", "v6e:8x8"), "needs --image, --claim"),
        (("local", "--verbs", "mach"), "--verbs mach: choose of run, import, prepare, guide"),
        (("slurm", *H100, "--verbs", "guide,merge"), "several are a part of import, prepare"),
        (("slurm", *H100, "--verbs", "match,guide"), "several are a part of import, prepare"),
        (("slurm", *H100, "--verbs", ""), "--verbs : choose of"),
        (("slurm", *H100, "--workdir", "runs/x"), "give a path from the root"),
        (("slurm", *H100, "--workdir", "gs://bucket/run"), "gs://bucket/run is an address"),
        (("slurm", *H100, "--hours", "0"), "--hours 0: give 1 or more"),
        (("local", "--processes", "0"), "--processes 0: give 1 or more"),
        (("slurm", *H100, "--name", "My Run"), "--name My Run: up to 40"),
        (("jobset", *H100, *GKE, "--mount", "/data"), "not inside --mount /data: pods would lose"),
        (("slurm", "--target", "v6e:8x8"), "take jobset"),
        (("tpu-vm", "--target", "h100:8", *VM), "starts TPUs"),
        (("slurm", "--target", "h100:64", "--separate"), "--separate is for"),
        (("slurm", "--target", "h100:64", "--set", "match.typo=1"), "no key match.typo"),
        (("slurm", "--target", "cpu:4"), "wants v5e"),
        (("slurm", "--target", "h100:12"), "hosts have 8 chips: give a multiple of that"),
        (("slurm", *H100, "--image", "i"), "--image: slurm has no use for that"),
        (("jobset", *H100, *GKE, "--setup", "x"), "--setup: jobset has no use for that"),
        (("local", "--zone", "z"), "--zone: local has no use for that"),
        (("slurm", *H100, "--set", "guide.job.batch_size=63"), "does not split into 1 part(s)"),
        (("slurm", *H100, "--set", "match.prompts=p.txt"), "has no pictures for the heads"),
        (("local", "--verbs", "run", "--set", "export.dtype=int3"), "export.dtype=int3: choose"),
        (("slurm", *H100, "--set", "guide.job.steps=0"), "guide.job.steps=0: give"),
        (("slurm", "--target", "h100:24"), "24 device(s): 24 is not a multiple of 16"),
        (
            ("xpk", "--target", "v6e:8x8", "--slices", "2", *XPK),
            "data=-1 fsdp=16 context=1 tensor=1 does not fit 128 device(s): slices: 2",
        ),
    ],
)
def test_what_cannot_be_submitted_is_said_before(capsys, arguments, message):
    assert cli.main(["launch", arguments[0], *BASE, *arguments[1:]]) == 2
    assert message in capsys.readouterr().err
