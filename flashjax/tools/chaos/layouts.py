"""`chaos --layouts`: what was saved on one mesh goes on alike on every other.

`guide`, and `split` with its branches, are trained to their ends on each layout, and their
checkpoints before the last step are forked on all others: every loss of that step is that of the
layout that goes on itself.
"""

import dataclasses
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from flashjax.stages.contents import CHECKPOINTS
from flashjax.stages.run import ROAD
from flashjax.tools.chaos.faults import DONE, Job
from flashjax.train.metrics import CURVES
from flashjax.types import InputError

PATIENCE = 1800.0  # seconds of a job, of which most is compilation
TOLERANCE = 1e-6  # of a loss, relative: sums in another order
BATCH, STEPS, HALF = 8, 3, 2

log = logging.getLogger(__name__)

Start = Callable[[Path, Sequence[str], int], Job]  # of (workdir, words, processes)


@dataclasses.dataclass(frozen=True)
class Layout:
    """So many processes of so many devices, and the axes of the mesh that all make."""

    name: str
    processes: int = 1
    devices: int = 1
    branch: int = 1
    data: int = 1
    fsdp: int = 1

    def words(self, stage: str) -> list[str]:
        """The overrides that train a stage on it."""
        mesh = "split.mesh" if stage == "split" else "mesh"
        given = {f"{mesh}.{axis}": getattr(self, axis) for axis in ("branch", "data", "fsdp")}
        job = {"steps": STEPS, "batch_size": BATCH, "log_steps": 1}
        job |= {"checkpoint_steps": HALF, "milestone_steps": HALF}
        given |= {f"{stage}.job.{key}": value for key, value in job.items()}
        given |= {"simulate_devices": self.devices}
        return [f"--config.{key}={value}" for key, value in given.items()]


LAYOUTS = {
    "guide": (
        Layout("1"),
        Layout("2x4", devices=8, data=2, fsdp=4),
        Layout("4x2", devices=8, data=4, fsdp=2),
        Layout("2-processes", processes=2, data=2),
    ),
    "split": (
        Layout("branches-2", devices=2, branch=2),
        Layout("branches-2x4", devices=8, branch=2, fsdp=4),
        Layout("branches-2x2x2", devices=8, branch=2, data=2, fsdp=2),
        Layout("branches-2-processes", processes=2, branch=2),
    ),
}


def layouts(place: Path, made: Path, start: Start, stages: Sequence[str]) -> dict[str, float]:
    """How far a loss after a restart is from that without one, by "stage: from -> onto".

    Of those of `stages` that train on layouts; `made` is a run that is finished up to them.
    InputError where a job fails, or is too far.
    """
    found = {}
    for stage, several in [(name, LAYOUTS[name]) for name in stages if name in LAYOUTS]:
        whole: dict[Layout, Path] = {}
        for new in several:
            whole[new] = _trained(place, made, stage, new, start)
            pairs = [pair for pair in itertools.permutations(whole, 2) if new in pair]
            for one, other in pairs:
                half = whole[one] / stage / CHECKPOINTS / str(HALF)
                onto = _trained(place, made, stage, other, start, fork=half)
                name = f"{stage}: {one.name} -> {other.name}"
                found[name] = _apart(_losses(whole[one], stage), _losses(onto, stage))
                log.info("chaos: %s: %.2g", name, found[name])
                shutil.rmtree(onto)
    far = [f"{name}: {error:.2g}" for name, error in found.items() if error > TOLERANCE]
    if far:
        raise InputError(*far)
    return found


def _trained(
    place: Path, made: Path, stage: str, layout: Layout, start: Start, *, fork: Path | None = None
) -> Path:
    """A workdir in which the stage is done, from its start or from a checkpoint."""
    workdir = place / (f"fork-{layout.name}" if fork else f"layout-{layout.name}")
    for name in ("data", *itertools.takewhile(lambda name: name != stage, ROAD)):
        shutil.copytree(made / name, workdir / name, dirs_exist_ok=True)
    words = [stage, *layout.words(stage)]
    begun = (workdir / stage / "stage.json").exists()
    words += ["--fork", str(fork)] if fork and not begun else []
    if start(workdir, words, layout.processes).codes(PATIENCE) != {DONE}:
        raise InputError(f"{stage} on {layout.name} failed: {workdir}.log says why")
    return workdir


def _losses(workdir: Path, stage: str) -> dict[str, float]:
    """The losses of the step after the checkpoint, of the first process's branches."""
    lines = (workdir / stage / "metrics" / CURVES).read_text().splitlines()
    record = next(r for r in map(json.loads, lines) if r.get("step") == HALF + 1)
    return {name: value for name, value in record.items() if name.endswith("loss")}


def _apart(want: dict[str, float], got: dict[str, float]) -> float:
    """The largest relative difference of the losses that both have."""
    both = want.keys() & got.keys()
    if not both:
        raise InputError(f"no loss in common: {sorted(want)} and {sorted(got)}")
    return max(abs(got[name] - want[name]) / abs(want[name]) for name in both)
