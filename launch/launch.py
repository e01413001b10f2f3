#!/usr/bin/env python3
"""Starts a run's stages on machines: local processes, SLURM, GKE (JobSet or xpk), TPU VMs.

    launch/launch.py slurm --config configs/sd35_medium_h100_64.py --workdir /shared/run \
        --verbs split --target h100:64 --separate --dry_run

Every way ends in the same command on every host, `flashjax VERB --config … --workdir …`; how the
hosts meet is the environment's business (flashjax/parallel/hosts.py). `--dry_run` checks the config
and the target, prints what it would submit, and submits nothing. A preempted job is started again:
exit code 75 says that all is saved, 2 that the input is wrong and a restart would not help.
`--separate` makes one job per branch of `split`.
"""

import argparse
import dataclasses
import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.parallel.hosts import PORT
from flashjax.parallel.mesh import mesh_shape, without_branches
from flashjax.parallel.target import Target, parse_target
from flashjax.types import InputError

INTERRUPTED, WRONG_INPUT = 75, 2
ACCELERATORS = {  # chip: (GKE's name, chips per host, runtime of a TPU VM, units per chip in names)
    "v5e": ("tpu-v5-lite-podslice", 4, "v2-alpha-tpuv5-lite", 1),
    "v5p": ("tpu-v5p-slice", 4, "v2-alpha-tpuv5", 2),
    "v6e": ("tpu-v6e-slice", 4, "v2-alpha-tpuv6e", 1),
    "h100": ("nvidia-h100-80gb", 8, "", 1),
}


@dataclasses.dataclass(frozen=True)
class Launch:
    """What to run and where; `branch` is the one that this job trains, "" for all together."""

    config: str
    workdir: str
    verbs: tuple[str, ...]
    target: Target
    overrides: tuple[str, ...] = ()
    branch: str = ""
    name: str = "flashjax"
    image: str = ""
    cluster: str = ""
    zone: str = ""
    restarts: int = 10
    hours: int = 24

    @property
    def hosts(self) -> int:
        """Hosts of all slices; a process runs on each, or on each GPU."""
        return self.target.slices * math.ceil(
            self.target.devices / self.target.slices / ACCELERATORS[self.target.chip.name][1]
        )

    @property
    def job_name(self) -> str:
        return f"{self.name}-{self.branch}" if self.branch else self.name

    def command(self) -> str:
        """The stages one after the other, as a shell command."""
        return " && ".join(shlex.join(self.verb(verb)) for verb in self.verbs)

    def verb(self, verb: str) -> list[str]:
        only = (f"--config.split.only={self.branch}",) if self.branch else ()
        more = tuple(f"--config.{override}" for override in self.overrides)
        flags = ("--config", self.config, "--workdir", self.workdir)
        return ["flashjax", verb, *flags, *more, *only]


def slurm(launches: Sequence[Launch]) -> str:
    """One batch script; an array with an element per branch where branches are separate."""
    first = launches[0]
    _, per_host, _, _ = ACCELERATORS[first.target.chip.name]
    several = len(launches) > 1
    array = f"#SBATCH --array=0-{len(launches) - 1}\n" if several else ""
    log = "%x-%A_%a.log" if several else "%x-%j.log"
    commands = "\n".join(f"  {shlex.quote(launch.command())}" for launch in launches)
    return f"""#!/usr/bin/env bash
#SBATCH --job-name={first.name}
{array}#SBATCH --nodes={first.hosts}
#SBATCH --ntasks-per-node={per_host}
#SBATCH --gpus-per-node={per_host}
#SBATCH --time={first.hours}:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@180
#SBATCH --open-mode=append
#SBATCH --output={log}
set -uo pipefail
export NCCL_ASYNC_ERROR_HANDLING=1
COMMANDS=(
{commands}
)
srun --kill-on-bad-exit=1 bash -c "${{COMMANDS[${{SLURM_ARRAY_TASK_ID:-0}}]}}"
code=$?
# {INTERRUPTED}: everything is saved, go on later; {WRONG_INPUT}: a restart would not help.
if [ "$code" -eq {INTERRUPTED} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def jobset(launch: Launch) -> dict[str, Any]:
    """A JobSet: one replicated job with a Job per slice, a pod per host."""
    accelerator, per_host, _, _ = ACCELERATORS[launch.target.chip.name]
    per_slice = launch.hosts // launch.target.slices
    tpu = launch.target.is_tpu
    selector = {"cloud.google.com/gke-accelerator": accelerator}
    environment = {
        "FLASHJAX_PROCESSES": str(launch.hosts),
        "FLASHJAX_PROCESSES_PER_JOB": str(per_slice),
    }
    if tpu:  # GKE tells the pods of a TPU slice who they are
        selector = {
            "cloud.google.com/gke-tpu-accelerator": accelerator,
            "cloud.google.com/gke-tpu-topology": launch.target.topology,
        }
        environment = {"FLASHJAX_DISTRIBUTED": "auto"}
    resource = {("google.com/tpu" if tpu else "nvidia.com/gpu"): per_host}
    container = {
        "name": "flashjax",
        "image": launch.image,
        "command": ["bash", "-c", launch.command()],
        "ports": [{"containerPort": PORT}],
        "env": [{"name": name, "value": value} for name, value in environment.items()]
        + ([] if tpu else [_from_label("JOBSET_NAME", "jobset-name")])
        + ([] if tpu else [_from_label("REPLICATED_JOB_NAME", "replicatedjob-name")])
        + ([] if tpu else [_from_label("JOB_INDEX", "job-index")]),
        "resources": {"limits": resource, "requests": resource},
    }
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": selector,
        "terminationGracePeriodSeconds": 180,
        "containers": [container],
    }
    job = {
        "completionMode": "Indexed",
        "completions": per_slice,
        "parallelism": per_slice,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"operator": "In", "values": [WRONG_INPUT]},
                }
            ]
        },
        "template": {"spec": pod},
    }
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": launch.job_name, "annotations": exclusive},
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": {
                "maxRestarts": launch.restarts,
                "rules": [
                    {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": launch.target.slices, "template": {"spec": job}}
            ],
        },
    }


def xpk(launch: Launch) -> list[str]:
    """The xpk command."""
    return [
        *("xpk", "workload", "create", "--cluster", launch.cluster, "--workload", launch.job_name),
        *("--tpu-type", _accelerator_type(launch.target), f"--num-slices={launch.target.slices}"),
        *("--docker-image", launch.image, f"--max-restarts={launch.restarts}"),
        *("--zone", launch.zone, "--command"),
        f"export FLASHJAX_DISTRIBUTED=auto; {launch.command()}",
    ]


def tpu_vm(launch: Launch) -> list[list[str]]:
    """Two gcloud commands: ask for a queued resource, and start on all of its workers."""
    runtime = ACCELERATORS[launch.target.chip.name][2]
    several = launch.target.slices > 1
    nodes = ("--node-count", str(launch.target.slices), "--node-prefix", launch.job_name)
    create = [
        *("gcloud", "compute", "tpus", "queued-resources", "create", launch.job_name),
        *(nodes if several else ("--node-id", launch.job_name)),
        *("--zone", launch.zone, "--accelerator-type", _accelerator_type(launch.target)),
        *("--runtime-version", runtime),
    ]
    command = f"export FLASHJAX_DISTRIBUTED=auto; {launch.command()}"
    start = [
        *("gcloud", "compute", "tpus", "queued-resources", "ssh", launch.job_name),
        *("--zone", launch.zone, "--worker=all", "--node=all", "--command", command),
    ]
    return [create, start]


def local(launch: Launch, processes: int) -> int:
    """Runs the stages in `processes` processes of this machine; the first failure stops all."""
    started: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: Any) -> None:
        for process in started:
            process.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    for verb in launch.verbs:
        port = free_port()
        started[:] = [
            subprocess.Popen(
                launch.verb(verb), env=os.environ | local_environment(i, processes, port)
            )
            for i in range(processes)
        ]
        code = wait_for_all(started)
        if code:
            return code
    return 0


def wait_for_all(started: Sequence[subprocess.Popen[bytes]]) -> int:
    """0, or the exit code of the first that fails; the others would wait for it, and are killed."""
    while True:
        codes = [process.poll() for process in started]
        failed = [code for code in codes if code not in (None, 0, INTERRUPTED)]
        if failed:
            for process in started:
                process.kill()
                process.wait()
            return failed[0]
        if None not in codes:
            return max(codes)
        time.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens to, so that several jobs may run on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def local_environment(process: int, processes: int, port: int) -> dict[str, str]:
    """How a process of this machine finds the others."""
    return {
        "FLASHJAX_COORDINATOR": f"127.0.0.1:{port}",
        "FLASHJAX_PROCESSES": str(processes),
        "FLASHJAX_PROCESS": str(process),
    }


def checked(options: argparse.Namespace) -> list[Launch]:
    """One launch, or one per branch; InputError for a config or target that cannot be."""
    target = parse_target(options.target, slices=options.slices)
    if options.how != "local" and target.chip.name not in ACCELERATORS:
        raise InputError(f"--target {target}: {options.how} wants {', '.join(ACCELERATORS)}")
    needs = {"jobset": ("image",), "xpk": ("image", "cluster", "zone"), "tpu-vm": ("zone",)}
    missing = [name for name in needs.get(options.how, ()) if not getattr(options, name)]
    if missing:
        raise InputError(f"{options.how} needs --{', --'.join(missing)}")
    if options.how in ("xpk", "tpu-vm") and not target.is_tpu:
        raise InputError(f"--target {target}: {options.how} starts TPUs")
    if options.how == "slurm" and target.is_tpu:
        raise InputError(f"--target {target}: SLURM starts GPUs here; for TPUs take jobset")
    config = configs.load(options.config, options.set)
    launch = Launch(
        config=options.config,
        workdir=options.workdir,
        verbs=tuple(options.verbs.split(",")),
        target=target,
        overrides=tuple(options.set),
        **{name: getattr(options, name) for name in ("name", "image", "cluster", "zone", "hours")},
    )
    if options.separate and launch.verbs != ("split",):
        raise InputError("--separate is for --verbs split: a job for each branch")
    if options.how != "local":
        check_mesh(config, launch, separate=options.separate)
    if not options.separate:
        return [launch]
    return [dataclasses.replace(launch, branch=branch) for branch in config.split.branches]


def check_mesh(config: ConfigDict, launch: Launch, *, separate: bool) -> None:
    """InputError where the mesh of a stage is not that of the target."""
    devices, islands = launch.target.devices, launch.target.islands
    for section in {"split" if verb == "split" else "" for verb in launch.verbs}:
        sizes = (config[section] if section else config).mesh.to_dict()
        mesh_shape(without_branches(sizes) if separate else sizes, devices, islands=islands)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        launches = checked(options)
    except InputError as error:
        print(f"launch {options.how}: {error}", file=sys.stderr)
        return WRONG_INPUT
    if options.how == "local":
        if options.dry_run:
            print(f"{options.processes} processes: {launches[0].command()}")
            return 0
        return max(local(launch, options.processes) for launch in launches)
    return submit(options.how, launches, dry_run=options.dry_run)


def submit(how: str, launches: Sequence[Launch], *, dry_run: bool) -> int:
    """Hands each job to its scheduler, or prints what it would hand over."""
    jobs: list[tuple[list[str], str]] = []
    if how == "slurm":
        jobs = [(["sbatch"], slurm(launches))]
    for launch in launches:
        if how == "jobset":
            jobs.append((["kubectl", "apply", "-f", "-"], json.dumps(jobset(launch), indent=2)))
        elif how == "xpk":
            jobs.append((xpk(launch), ""))
        elif how == "tpu-vm":
            jobs += [(command, "") for command in tpu_vm(launch)]
    run: Callable[..., Any] = subprocess.run
    for command, text in jobs:
        if dry_run:
            print(f"# {shlex.join(command)}" if text else shlex.join(command))
            print(text, end="\n" if text else "")
        elif code := run(command, input=text.encode()).returncode:
            return code
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("how", choices=("local", "slurm", "jobset", "xpk", "tpu-vm"))
    top.add_argument("--config", required=True)
    top.add_argument("--workdir", required=True, help="on a file system that all hosts see")
    top.add_argument("--verbs", default="guide,match,split", help="stages, one after the other")
    top.add_argument("--target", default="cpu:1", help="CHIP:TOPOLOGY, as for `flashjax plan`")
    top.add_argument("--slices", type=int, default=1)
    top.add_argument("--separate", action="store_true", help="a job for each branch of split")
    top.add_argument("--processes", type=int, default=2, help="of `local`")
    top.add_argument("--set", action="append", default=[], metavar="a.b=v", help="an override")
    top.add_argument("--name", default="flashjax")
    top.add_argument("--image", default="", help="container image with flashjax")
    top.add_argument("--cluster", default="")
    top.add_argument("--zone", default="")
    top.add_argument("--hours", type=int, default=24)
    top.add_argument("--dry_run", action="store_true")
    return top


def _from_label(name: str, label: str) -> dict[str, Any]:
    path = f"metadata.labels['jobset.sigs.k8s.io/{label}']"
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _accelerator_type(target: Target) -> str:
    """ "v6e-64"; v5p counts cores, two a chip."""
    units = ACCELERATORS[target.chip.name][3]
    return f"{target.chip.name}-{target.devices // target.slices * units}"


if __name__ == "__main__":
    sys.exit(main())
