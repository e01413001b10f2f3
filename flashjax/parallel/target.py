"""Machines to compile for, whether or not they are here: "v6e:8x8", "h100:64", "cpu:8".

TPU topologies come from libtpu, which holds the whole compiler and needs no TPU; its package is in
requirements-plan.txt. Other machines are stood in for by simulated CPU devices: layouts and
collectives are those of the partitioner, memory and kernels are not.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from flashjax.parallel.chips import CHIPS, Chip
from flashjax.parallel.mesh import Islands, islands_of
from flashjax.types import InputError

# Most of a TPU compilation are the instructions of large matrix products. With little VMEM for each
# operation their tiles, and so the code, are small; buffers in HBM, layouts and collectives are
# decided before. Splash attention's backward pass does not fit half of this.
SMALL_TILES = {"xla_tpu_scoped_vmem_limit_kib": "8192"}


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine: its chip, how its chips are arranged, in how many slices."""

    chip: Chip
    topology: str
    slices: int = 1

    @property
    def is_tpu(self) -> bool:
        return self.chip.name.startswith(("v", "tpu"))

    @property
    def devices(self) -> int:
        chips = self.slices * math.prod(int(side) for side in self.topology.split("x"))
        return chips * self.chip.per_chip

    @property
    def island(self) -> int:
        """The number of devices that fast links join; 0 for a TPU, whose devices know."""
        return 0 if self.is_tpu else self.chip.island or self.devices // self.slices

    @property
    def islands(self) -> Islands | None:
        """What its devices will tell `make_mesh`, where it is here."""
        platform = "tpu" if self.is_tpu else "gpu" if self.chip.island else "cpu"
        return islands_of(platform, -(-self.devices // self.island) if self.island else self.slices)

    def __str__(self) -> str:
        slices = f"{self.slices} slices of " if self.slices > 1 else ""
        return f"{slices}{self.chip.name}:{self.topology}"


def parse_target(text: str, *, slices: int = 1) -> Target:
    """The machine that "chip:topology" names. InputError for one that the table does not have."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
    if not match or match[1] not in CHIPS:
        raise InputError(
            f"--target {text}: write CHIP:TOPOLOGY such as v6e:8x8, v5p:4x4x8, h100:64 or cpu:8; "
            f"chips are {', '.join(CHIPS)}"
        )
    if slices < 1:
        raise InputError(f"--slices {slices}: give 1 or more")
    return Target(CHIPS[match[1]], match[2], slices)


def open_devices(target: Target) -> Sequence[jax.Device]:
    """Its devices, to make a mesh of. Simulated ones must be asked for before JAX starts."""
    if not target.is_tpu:
        return jax.devices("cpu")[: target.devices]
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "a TPU target needs its compiler: pip install --requirement requirements-plan.txt"
        )
    # There is no TPU here to ask, nor to be locked against a second compilation.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v6e-4")  # of this host; the topology is named
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    more = {"num_slices": target.slices} if target.slices > 1 else {}
    name = f"{target.chip.name}:{target.topology}"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **more).devices
    except jax.errors.JaxRuntimeError as error:  # a topology that does not exist
        raise InputError(f"--target {name}: {str(error).splitlines()[0][:200]}") from error
