"""Whole stages in two processes that a launcher starts: the losses of one process."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from flashjax import cli
from flashjax.stages.stage import read_stage

ROOT = Path(__file__).parents[2]

STAGES = tuple(
    os.environ.get("STAGES", "guide").split(",")
)  # "guide,match,split" takes many minutes


@pytest.fixture
def environment(undivided, monkeypatch):
    """Where `flashjax` is this package."""
    here = ROOT / "flashjax"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), *filter(None, sys.path)]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XLA_FLAGS", undivided["XLA_FLAGS"])


def small(teacher: Path, devices: int) -> list[str]:
    sizes = {
        "teacher.source": teacher,
        "simulate_devices": devices,
        "match.heads.taps": "0",
        "match.critic_updates": 1,
        "data.train": 32,
        "data.validation": 1,
        "mesh.data": 2,
        "mesh.fsdp": 2,
        "split.mesh.fsdp": 2,
    }
    for stage in ("guide", "match", "split"):
        sizes |= {f"{stage}.job.steps": 2, f"{stage}.job.batch_size": 8}
        sizes |= {f"{stage}.job.log_steps": 1, f"{stage}.job.checkpoint_steps": 2}
    return [part for key, value in sizes.items() for part in ("--set", f"{key}={value}")]


def losses(workdir: Path, stage: str) -> dict[str, list[float]]:
    """The losses that every process wrote; of branches each writes its own."""
    found = {}
    for file in (workdir / stage).glob("metrics*/metrics.jsonl"):
        for record in map(json.loads, file.read_text().splitlines()):
            for name in (name for name in record if name.endswith("loss")):
                found.setdefault(name, {})[record["step"]] = record[name]
    return {name: list(by_step.values()) for name, by_step in found.items()}


def test_stages_in_two_processes_give_the_losses_of_one(environment, shallow_teacher, tmp_path):
    for processes in (1, 2):
        place = ["--config", str(ROOT / "configs" / "nano.py"), "--workdir"]
        job = [*place, str(tmp_path / f"of{processes}"), "--processes", str(processes)]
        verbs = ["--verbs", ",".join(("import", "prepare", *STAGES))]
        assert (
            cli.main(["launch", "local", *job, *verbs, *small(shallow_teacher, 4 // processes)])
            == 0
        )
    for stage in STAGES:
        one, two = (losses(tmp_path / f"of{n}", stage) for n in (1, 2))
        assert one and all(len(set(values)) == 2 for values in one.values())
        for name, values in one.items():
            np.testing.assert_allclose(two[name], values, rtol=1e-5, err_msg=name)
        assert read_stage(tmp_path / "of2" / stage)["status"] == "done"
