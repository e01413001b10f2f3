"""`merge`: the branches to one student."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.checkpoint import save_params
from flashjax.parallel.mesh import make_mesh
from flashjax.stages.identity import OPERATION, leaves
from flashjax.stages.model import trained_student
from flashjax.stages.split import RAW, folders_of
from flashjax.stages.stage import read_stage, run_stage
from flashjax.train.merge import merge
from flashjax.types import InputError


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return {"weights": config.merge.weights.to_dict()}


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Weighs the branches' averaged weights as the config says, from one job or one job each."""
    weights = config.merge.weights.to_dict()
    stages = folders_of(weights, workdir)

    def body(folder: Path) -> dict[str, Any]:
        check_siblings({stage: workdir / stage for stage in stages.values()})
        mesh = make_mesh(config.mesh)
        branches = [
            trained_student(workdir, f"{stage}/{name}", mesh) for name, stage in stages.items()
        ]
        save_params(folder / "params", merge(branches, list(weights.values())))
        return {"weights": weights}

    return run_stage(
        "merge",
        section_of(config),
        workdir,
        body,
        inputs={stage: workdir / stage for stage in stages.values()},
        seed=config.seed,
    )


def check_siblings(folders: Mapping[str, Path]) -> None:
    """InputError unless the jobs of all branches began with the same weights and the same method.

    How long a branch trains, how fast and on which mesh is its own affair.
    """
    told = {name: _ancestry(folder) for name, folder in folders.items()}
    (first, want), *others = told.items()
    for name, got in others:
        differ = [key for key in want.keys() | got.keys() if want.get(key) != got.get(key)]
        if differ:
            raise InputError(
                f"{name} and {first} are no branches of one student: they differ in "
                f"{', '.join(sorted(differ))}; train one of them again"
            )


def _ancestry(folder: Path) -> dict[str, Any]:
    """What branches of one student share: digests of their inputs, the method, the ranges."""
    record = read_stage(folder)
    if record is None:
        raise InputError(f"{folder} is no stage: train its branch with `flashjax split`")
    section = {key: record["section"][key] for key in ("branches", "match", "student")}
    section["units"] = record["section"].get("units", RAW)  # of the ranges
    shared = {key: x for key, x in leaves(section).items() if not OPERATION.fullmatch(key)}
    digests = {f"input {key}": found["digest"] for key, found in record["inputs"].items()}
    return digests | shared | {"seed": record["seed"]}
