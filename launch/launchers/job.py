"""What is started, and on what: the command that every host runs in the end."""

import dataclasses
import math
from collections.abc import Sequence

from flashjax.parallel.target import Target
from flashjax.tools.verbs import ROAD, VERBS
from flashjax.types import InputError

INTERRUPTED, WRONG_INPUT = 75, 2
GRACE_SECONDS = 180  # between the signal and the end: a step and a save


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A chip as clouds know it: GKE's name, chips of a host, runtime of a VM, names of slices."""

    gke: str
    per_host: int
    runtime: str = ""
    prefix: str = ""
    units: int = 1  # that the name of a slice counts for each chip


ACCELERATORS = {
    "v5e": Accelerator("tpu-v5-lite-podslice", 4, "v2-alpha-tpuv5-lite", "v5litepod"),
    "v5p": Accelerator("tpu-v5p-slice", 4, "v2-alpha-tpuv5", "v5p", units=2),
    "v6e": Accelerator("tpu-v6e-slice", 4, "v2-alpha-tpuv6e", "v6e"),
    "h100": Accelerator("nvidia-h100-80gb", 8),
    "h200": Accelerator("nvidia-h200-141gb", 8),
}


@dataclasses.dataclass(frozen=True)
class Launch:
    """What to run and where; `branch` is the one that this job trains, "" for all together."""

    how: str
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
    claim: str = ""
    storage: str = ""
    mount: str = ""
    repository: str = ""
    setup: str = ""
    restarts: int = 10
    hours: int = 24

    @property
    def accelerator(self) -> Accelerator:
        return ACCELERATORS[self.target.chip.name]

    @property
    def hosts(self) -> int:
        """Hosts of all slices; a process runs on each, or on each GPU."""
        per_slice = self.target.devices / self.target.slices / self.accelerator.per_host
        return self.target.slices * math.ceil(per_slice)

    @property
    def devices_per_host(self) -> int:
        """Chips of each host; a slice smaller than a host has a part of one."""
        return min(self.accelerator.per_host, self.target.devices // self.target.slices)

    @property
    def job_name(self) -> str:
        return f"{self.name}-{self.branch}" if self.branch else self.name

    def words(self) -> list[str]:
        """The command: one process takes all stages one after the other, and has the signals."""
        only = (f"--config.split.only={self.branch}",) if self.branch else ()
        more = tuple(f"--config.{override}" for override in self.overrides)
        flags = ("--config", self.config, "--workdir", self.workdir)
        return ["flashjax", *stages(self.verbs), *flags, *more, *only]


def stages(verbs: Sequence[str]) -> list[str]:
    """A verb, or the part of the road that several are. InputError for what is neither."""
    known = [name for name, verb in VERBS.items() if verb.stage]
    for verb in verbs:
        if verb not in known:
            raise InputError(f"--verbs {verb}: choose of {', '.join(known)}")
    if len(verbs) == 1:
        return list(verbs)
    first, last = verbs[0], verbs[-1]
    if first not in ROAD or list(verbs) != ROAD[ROAD.index(first) :][: len(verbs)]:
        raise InputError(f"--verbs {','.join(verbs)}: several are a part of {', '.join(ROAD)}")
    return ["run", "--from", first, "--to", last]
