"""The device mesh: five named axes, always all of them, most of size 1.

An island is what fast links join: a TPU slice, a GPU host or NVLink domain. An axis has a size
within an island and, under `dcn`, one across islands. Only `branch` and `data` may be said to
cross: nothing else can wait so long. Of TPU slices a config has to say it; GPU hosts take their
part of the mesh in its order, so that the last axes stay within a host where they fit.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from flashjax.types import InputError

AXES = ("branch", "data", "fsdp", "context", "tensor")
CROSSING = ("branch", "data")
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=600"


@dataclasses.dataclass(frozen=True)
class Islands:
    """How many there are, what they are called, and whether a config must say what crosses them."""

    number: int
    kind: str
    said: bool


def islands_of(platform: str, number: int) -> Islands | None:
    """The `number` islands of a machine; None for CPUs, whose islands are what `dcn` says."""
    if platform == "cpu":
        return None
    tpu = platform == "tpu"
    return Islands(number, "slices" if tpu else "hosts", said=tpu)


def island_of(device: jax.Device) -> int:
    """The number of a device's island.

    XLA numbers slices, and hosts or NVLink domains of GPUs; hosts of CPUs, too, but there nothing
    is faster within one.
    """
    return 0 if device.platform == "cpu" else getattr(device, "slice_index", 0) or 0


def make_mesh(
    sizes: Mapping[str, Any],
    devices: Sequence[jax.Device] | None = None,
    islands: Islands | None = None,
) -> Mesh:
    """The mesh of all devices, or of a simulating CPU's first prod(sizes); sizes left out are 1.

    `sizes` holds each axis' size within an island and, under "dcn", sizes across islands:
    {"fsdp": 64, "dcn": {"branch": 2}}. One size may be -1: it takes all devices that the others
    leave. `islands` are those of the machine that CPUs stand for. InputError, with the whole
    table, for sizes that do not fit.
    """
    devices = list(jax.devices() if devices is None else devices)
    islands = islands or islands_of(devices[0].platform, len(set(map(island_of, devices))))
    inner, outer = mesh_shape(sizes, len(devices), islands=islands, may_idle=_may_idle(devices))
    used = devices[: math.prod(inner) * math.prod(outer)]
    # The default of axis_types has changed between versions of JAX: always say it.
    types = (AxisType.Auto,) * len(AXES)
    return Mesh(_arrange(inner, outer, used), AXES, axis_types=types)


def mesh_shape(
    sizes: Mapping[str, Any],
    available: int,
    *,
    islands: Islands | None = None,
    may_idle: bool = False,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The size of every axis within and across islands, -1 replaced, for `available` devices.

    InputError, with the whole table, for sizes that do not make that number or not these islands.
    """
    dcn = dict(sizes.get("dcn", {}))
    ici = {axis: size for axis, size in sizes.items() if axis != "dcn"}
    unknown = sorted((set(ici) | set(dcn)) - set(AXES))
    if unknown:
        raise InputError(f"mesh has no axis {', '.join(unknown)}; its axes are {', '.join(AXES)}")
    ici, dcn = ({axis: table.get(axis, 1) for axis in AXES} for table in (ici, dcn))
    every = [*ici.values(), *dcn.values()]
    fixed = math.prod(size for size in every if size != -1)

    def misfit(reason: str) -> InputError:
        return InputError(f"mesh {_table(ici, dcn)} does not fit {available} device(s): {reason}")

    crossing = [axis for axis, size in dcn.items() if size != 1 and axis not in CROSSING]
    if crossing:
        raise misfit(f"only {' and '.join(CROSSING)} may cross slices, not {', '.join(crossing)}")
    if every.count(-1) > 1 or any(size < 1 for size in every if size != -1):
        raise misfit("every size is at least 1, and at most one is -1")
    if fixed > available:
        raise misfit(f"it needs {fixed}; on a CPU set simulate_devices={fixed}")
    if -1 in every and available % fixed:
        raise misfit(f"{available} is not a multiple of {fixed}")
    if -1 not in every and fixed < available and not may_idle:
        raise misfit(f"it leaves {available - fixed} without work: let an axis be -1")
    inner, outer = (
        tuple(available // fixed if size == -1 else size for size in table.values())
        for table in (ici, dcn)
    )
    across = math.prod(outer)
    if islands and across != islands.number and (islands.said or across > 1):
        raise misfit(f"{islands.kind}: {islands.number}, but the sizes under dcn make {across}")
    return inner, outer


def without_branches(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of the mesh of a job that trains one branch alone, on all of its devices."""
    across = {axis: size for axis, size in sizes.get("dcn", {}).items() if axis != "branch"}
    return {**sizes, "branch": 1, "dcn": across}


def slice_of(mesh: Mesh, island: int = 0) -> list[int]:
    """The island of every device, in the mesh's order; 0 where a machine has none.

    Devices that stand for others know of none: each `island` of them in a row is one.
    """
    if island:
        return [device.id // island for device in mesh.devices.flat]
    return [island_of(device) for device in mesh.devices.flat]


def simulate_devices(number: int) -> None:
    """Split the CPU into `number` devices, before JAX touches any; 1 changes nothing."""
    if number <= 1:
        return
    try:
        jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError as error:
        raise RuntimeError("simulate_devices must run before JAX touches a device") from error
    jax.config.update("jax_platforms", "cpu")
    # XLA aborts where a device is 40 s late at a collective, as one of a busy machine may be.
    flags = os.environ.get("XLA_FLAGS", "")
    if PATIENCE.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {PATIENCE}".strip()


def _arrange(
    inner: tuple[int, ...], outer: tuple[int, ...], devices: Sequence[jax.Device]
) -> np.ndarray:
    """Islands on the outer part of every axis, the chips of one island on its inner part.

    An axis may take a part of a side of the torus: 16 of 8x8 chips are a square of 4x4.
    """
    if math.prod(outer) == 1:
        return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
    if devices[0].platform != "cpu":
        return mesh_utils.create_hybrid_device_mesh(
            inner, outer, devices, allow_split_physical_axes=True
        )
    # CPUs know no islands: equal runs of devices stand for them.
    grid = np.array(devices).reshape(*outer, *inner)
    pairs = [axis for i in range(len(AXES)) for axis in (i, len(AXES) + i)]
    return grid.transpose(pairs).reshape([a * b for a, b in zip(inner, outer, strict=True)])


def _may_idle(devices: Sequence[jax.Device]) -> bool:
    """Whether devices may be left out: those that one CPU simulates, which are nobody's money.

    A process without a device in the mesh could not take part in its job.
    """
    kinds = {(device.platform, device.process_index) for device in devices}
    return len(kinds) == 1 and devices[0].platform == "cpu"


def _table(ici: Mapping[str, int], dcn: Mapping[str, int]) -> str:
    """ "branch=1x2 data=4 …": the size within a slice, then across slices where it is not 1."""
    return " ".join(
        f"{axis}={size}" + (f"x{dcn[axis]}" if dcn[axis] != 1 else "") for axis, size in ici.items()
    )
