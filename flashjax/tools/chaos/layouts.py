"""`chaos --layouts`: what was saved on one mesh goes on alike on every other.

`guide` is trained to its end on each layout, and its checkpoint half-way is forked on all others:
the loss of the step after it is that of the layout that goes on itself.
"""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from flashjax.stages.contents import CHECKPOINTS
from flashjax.tools.chaos.faults import DONE, Job
from flashjax.train.metrics import CURVES
from flashjax.types import InputError

PATIENCE = 900.0  # seconds of a job, of which most is compilation
TOLERANCE = 1e-6  # of a loss, relative: sums in another order
BATCH, STEPS, HALF = 8, 4, 2  # the config keeps milestones of HALF steps
LOSS = "student/loss"

Start = Callable[[Path, Sequence[str], int], Job]  # of (workdir, words, processes)


@dataclasses.dataclass(frozen=True)
class Layout:
    """So many processes of so many devices, and the axes of the mesh that all make."""

    name: str
    processes: int = 1
    devices: int = 1
    data: int = 1
    fsdp: int = 1

    def words(self) -> list[str]:
        sizes = {"simulate_devices": self.devices, "mesh.data": self.data, "mesh.fsdp": self.fsdp}
        job = {"steps": STEPS, "batch_size": BATCH, "log_steps": 1, "checkpoint_steps": HALF}
        given = sizes | {f"guide.job.{key}": value for key, value in job.items()}
        return [f"--config.{key}={value}" for key, value in given.items()]


LAYOUTS = (
    Layout("1"),
    Layout("2x4", devices=8, data=2, fsdp=4),
    Layout("4x2", devices=8, data=4, fsdp=2),
    Layout("2-processes", processes=2, data=2),
)


def layouts(place: Path, made: Path, start: Start) -> dict[str, float]:
    """How far the loss after a restart is from that without one, by "from -> onto".

    `made` is a workdir with the stages before `guide`. InputError where a job fails, or is too far.
    """
    whole = {layout: _guided(place, made, layout, start) for layout in LAYOUTS}
    found = {}
    for one, other in itertools.permutations(LAYOUTS, 2):
        half = whole[one] / "guide" / CHECKPOINTS / str(HALF)
        onto = _guided(place, made, other, start, fork=half)
        want, got = _loss(whole[one]), _loss(onto)
        found[f"{one.name} -> {other.name}"] = abs(got - want) / abs(want)
        shutil.rmtree(onto)
    far = [f"{name}: {error:.2g}" for name, error in found.items() if error > TOLERANCE]
    if far:
        raise InputError(*far)
    return found


def _guided(
    place: Path, made: Path, layout: Layout, start: Start, *, fork: Path | None = None
) -> Path:
    """A workdir in which `guide` is done, from its start or from a checkpoint."""
    workdir = place / (f"fork-{layout.name}" if fork else f"layout-{layout.name}")
    for stage in ("import", "prepare", "data"):
        shutil.copytree(made / stage, workdir / stage, dirs_exist_ok=True)
    words = ["guide", *layout.words()]
    begun = (workdir / "guide" / "stage.json").exists()
    words += ["--fork", str(fork)] if fork and not begun else []
    if start(workdir, words, layout.processes).codes(PATIENCE) != {DONE}:
        raise InputError(f"guide on {layout.name} failed: {workdir}.log says why")
    return workdir


def _loss(workdir: Path) -> float:
    """The loss of the step after the checkpoint."""
    lines = (workdir / "guide" / "metrics" / CURVES).read_text().splitlines()
    return next(r[LOSS] for r in map(json.loads, lines) if r.get("step") == HALF + 1)
