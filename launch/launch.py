#!/usr/bin/env python3
"""Starts a run's stages on machines: local processes, SLURM, GKE (JobSet or xpk), TPU VMs.

    flashjax launch slurm --config sd35_medium_h100_64 --workdir /shared/run \
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
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ml_collections import ConfigDict

from flashjax.cli import main
from flashjax.convert.mistaken import no_folder
from flashjax.launch.launchers.job import ACCELERATORS, Launch, stages
from flashjax.launch.launchers.jobset import jobset
from flashjax.launch.launchers.local import local
from flashjax.launch.launchers.slurm import slurm
from flashjax.launch.launchers.tpu import tpu_vm, xpk
from flashjax.parallel.mesh import AXES, mesh_shape, without_branches
from flashjax.parallel.target import Target, parse_target
from flashjax.tools import preflight, sections
from flashjax.tools.verbs import ROAD
from flashjax.types import InputError

NEEDS = {
    "jobset": ("image", "claim"),
    "xpk": ("image", "cluster", "zone", "storage"),
    "tpu-vm": ("zone", "repository"),
}
READS = {  # of what clusters and clouds are told
    "local": (),
    "slurm": ("setup",),
    "jobset": ("image", "claim", "mount"),
    "xpk": NEEDS["xpk"],
    "tpu-vm": (*NEEDS["tpu-vm"], "setup"),
}
NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"  # of Kubernetes' and Google's objects
LEAST = {"slices": 1, "processes": 1, "restarts": 0, "hours": 1}


def checked(options: argparse.Namespace) -> list[Launch]:
    """One launch, or one per branch; InputError for a config or target that cannot be."""
    target = parse_target(options.target, slices=options.slices)
    check_options(options, target)
    config = sections.load(options.config, options.set)
    names = ("name", "image", "cluster", "zone", "claim", "storage", "repository", "setup")
    launch = Launch(
        how=options.how,
        config=options.config,
        workdir=options.workdir,
        verbs=tuple(options.verbs.split(",")),
        target=target,
        overrides=tuple(options.set),
        mount=mount_of(options),
        **{name: getattr(options, name) for name in (*names, "restarts", "hours")},
    )
    stages(launch.verbs)
    if options.separate and launch.verbs != ("split",):
        raise InputError("--separate is for --verbs split: a job for each branch")
    check_config(config, launch, separate=options.separate)
    if not options.separate:
        return [launch]
    return [dataclasses.replace(launch, branch=branch) for branch in config.split.branches]


def check_options(options: argparse.Namespace, target: Target) -> None:
    """InputError for flags that a way of starting cannot do with, or without."""
    how = options.how
    for name, least in LEAST.items():
        if getattr(options, name) < least:
            raise InputError(f"--{name} {getattr(options, name)}: give {least} or more")
    if not re.fullmatch(NAME, options.name):
        raise InputError(f"--name {options.name}: up to 40 of a-z, 0-9 and -, a letter first")
    known = sorted({name for names in READS.values() for name in names})
    if unread := [name for name in known if getattr(options, name) and name not in READS[how]]:
        raise InputError(f"--{', --'.join(unread)}: {how} has no use for that, leave it out")
    if how == "local":
        return
    if told := no_folder(options.workdir):  # a copy on one machine would be none of the others'
        raise InputError(f"--workdir {told}")
    if not PurePosixPath(options.workdir).is_absolute():
        raise InputError(f"--workdir {options.workdir}: give a path from the root, on every host")
    if target.chip.name not in ACCELERATORS:
        raise InputError(f"--target {target}: {how} wants {', '.join(ACCELERATORS)}")
    host, chips = ACCELERATORS[target.chip.name].per_host, target.devices // target.slices
    if chips > host and chips % host:  # whole hosts would be asked for, and have another mesh
        raise InputError(f"--target {target}: hosts have {host} chips: give a multiple of that")
    missing = [name for name in NEEDS.get(how, ()) if not getattr(options, name)]
    if missing:
        raise InputError(f"{how} needs --{', --'.join(missing)}")
    if how in ("xpk", "tpu-vm") and not target.is_tpu:
        raise InputError(f"--target {target}: {how} starts TPUs")
    if how == "slurm" and target.is_tpu:
        raise InputError(f"--target {target}: SLURM starts GPUs here; for TPUs take jobset")


def mount_of(options: argparse.Namespace) -> str:
    """Where pods see the volume of the workdir: the folder above it, if nobody says."""
    workdir = PurePosixPath(options.workdir)
    mount = PurePosixPath(options.mount) if options.mount else workdir.parent
    if options.how == "jobset" and (mount == PurePosixPath("/") or mount not in workdir.parents):
        raise InputError(f"--workdir {workdir} is not inside --mount {mount}: pods would lose it")
    return str(mount)


def check_config(config: ConfigDict, launch: Launch, *, separate: bool) -> None:
    """InputError, with a line for each thing that would end the jobs of a launch.

    The meshes of `local` are those of this machine, which the processes see for themselves.
    """
    names = ROAD if launch.verbs == ("run",) else launch.verbs
    if not set(names) <= set(ROAD):
        return
    shapes = meshes_of(config, launch, names, separate=separate) if launch.how != "local" else {}
    if found := preflight.elsewhere(config, names, shapes):
        raise InputError(*found)


def meshes_of(
    config: ConfigDict, launch: Launch, names: Sequence[str], *, separate: bool
) -> dict[str, Mapping[str, int]]:
    """The meshes of stages on the target. InputError for one that is not that of its devices."""
    devices, islands = launch.target.devices, launch.target.islands
    found: dict[str, Mapping[str, int]] = {}
    for section in sorted({"split" if name == "split" else "" for name in names}):
        sizes = (config[section] if section else config).mesh.to_dict()
        sizes = without_branches(sizes) if separate else sizes
        inside, across = mesh_shape(sizes, devices, islands=islands)
        shape = {axis: a * b for axis, a, b in zip(AXES, inside, across, strict=True)}
        found[section] = shape
    return found


def run(options: argparse.Namespace, overrides: Sequence[str] = ()) -> int:
    """Starts the jobs, or prints what it would start; returns the first exit code that is not 0.

    InputError for what cannot be started.
    """
    options.set = [*options.set, *overrides]
    launches = checked(options)
    if options.how != "local":
        return submit(options.how, launches, dry_run=options.dry_run)
    for launch in launches:  # in turn: what ends one ends all, a signal too
        if options.dry_run:
            print(f"{options.processes} processes: {shlex.join(launch.words())}")
        elif code := local(launch, options.processes):
            return code
    return 0


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
    for command, text in jobs:
        if dry_run:
            print(shown(command, text))
            continue
        try:
            code = subprocess.run(command, input=text.encode(), check=False).returncode
        except FileNotFoundError as error:
            raise InputError(f"{how}: {command[0]} is not here; --dry_run prints all") from error
        if code:
            return code
    return 0


def shown(command: Sequence[str], text: str) -> str:
    """A command, as a comment of what it would be given: a script is one as it is printed."""
    told, (first, _, rest) = shlex.join(command), text.partition("\n")
    if first.startswith("#!"):
        return f"{first}\n# {told}\n{rest}"
    return f"# {told}\n{text}" if text else told


if __name__ == "__main__":
    sys.exit(main(["launch", *sys.argv[1:]]))
