"""TPUs by Google's own commands: xpk on a GKE cluster, gcloud for VMs of one's own."""

import shlex

from flashjax.launch.launchers.job import ACCELERATORS, GRACE_SECONDS, INTERRUPTED, Launch
from flashjax.parallel.target import Target

AUTO = "FLASHJAX_DISTRIBUTED=auto"
FOLDER = "flashjax"  # where a VM has the repository, with its configs
CRASH = 1
PYTHON = "3.11"


def xpk(launch: Launch) -> list[str]:
    """The xpk command. By itself it would start again what was killed, and not what was saved."""
    return [
        *("xpk", "workload", "create", "--cluster", launch.cluster, "--workload", launch.job_name),
        *("--tpu-type", slice_type(launch.target), f"--num-slices={launch.target.slices}"),
        *("--docker-image", launch.image, f"--max-restarts={launch.restarts}"),
        f"--restart-on-exit-codes={CRASH},{INTERRUPTED}",
        f"--termination-grace-period-seconds={GRACE_SECONDS}",
        *("--storage", launch.storage, "--zone", launch.zone, "--command"),
        f"exec env {AUTO} {shlex.join(launch.words())}",
    ]


def tpu_vm(launch: Launch) -> list[list[str]]:
    """Commands: ask for a queued resource, wait for it, install, and start on all of its workers.

    The resource is there when its state is ACTIVE, which may take hours.
    """
    name, zone = launch.job_name, ("--zone", launch.zone)
    queued = ("gcloud", "compute", "tpus", "queued-resources")
    nodes = ("--node-count", str(launch.target.slices), "--node-prefix", name)
    create = [
        *(*queued, "create", name, *(nodes if launch.target.slices > 1 else ("--node-id", name))),
        *(*zone, "--accelerator-type", slice_type(launch.target)),
        *("--runtime-version", launch.accelerator.runtime),
    ]
    state = shlex.join([*queued, "describe", name, *zone, "--format=value(state.state)"])
    wait = f'until s=$({state}); [ "$s" = ACTIVE ]; do [ "$s" != FAILED ] || exit 1; sleep 30; done'
    every = ("gcloud", "alpha", *queued[1:], "ssh", name, *zone, "--worker=all", "--node=all")
    start = f"cd {FOLDER} && exec env PATH=.venv/bin:$PATH {AUTO} {shlex.join(launch.words())}"
    return [
        create,
        ["bash", "-c", wait],
        [*every, "--command", install(launch)],
        [*every, "--command", start],
    ]


def install(launch: Launch) -> str:
    """What a fresh VM runs: its own preparation, the repository, and an environment with libtpu."""
    steps = [
        *([launch.setup] if launch.setup else []),
        f"rm -rf {FOLDER}",
        f"git clone --depth 1 {shlex.quote(launch.repository)} {FOLDER}",
        f"cd {FOLDER}",
        "python3 -m pip install --user --quiet uv",
        f"python3 -m uv venv --quiet --python {PYTHON} .venv",
        "python3 -m uv pip install --quiet --requirement requirements-plan.txt --editable .",
    ]
    return " && ".join(steps)


def slice_type(target: Target) -> str:
    """ "v6e-64"; v5p counts cores, two a chip."""
    accelerator = ACCELERATORS[target.chip.name]
    return f"{accelerator.prefix}-{target.devices // target.slices * accelerator.units}"
