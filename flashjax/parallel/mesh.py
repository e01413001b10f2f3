"""The device mesh: five named axes, always all of them, most of size 1."""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh

from flashjax.types import InputError

AXES = ("branch", "data", "fsdp", "context", "tensor")


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of the first prod(sizes) devices; axes left out have size 1.

    One size may be -1: it takes all devices that the others leave. InputError for sizes that do not
    fit.
    """
    devices = list(jax.devices() if devices is None else devices)
    unknown = sorted(set(sizes) - set(AXES))
    if unknown:
        raise InputError(f"mesh has no axis {', '.join(unknown)}; its axes are {', '.join(AXES)}")
    shape = _resolve({axis: sizes.get(axis, 1) for axis in AXES}, len(devices))
    used = devices[: math.prod(shape)]
    # The default of axis_types has changed between versions of JAX: always say it.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=used)


def simulate_devices(number: int) -> None:
    """Split the CPU into `number` devices, before JAX touches any; 1 changes nothing."""
    if number <= 1:
        return
    try:
        jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError as error:
        raise RuntimeError("simulate_devices must run before JAX touches a device") from error
    jax.config.update("jax_platforms", "cpu")


def _resolve(sizes: Mapping[str, int], available: int) -> tuple[int, ...]:
    """Sizes with -1 replaced, checked against the number of devices."""
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise _misfit(sizes, available, "every size is at least 1, and at most one is -1")
    if fixed > available:
        raise _misfit(sizes, available, f"it needs {fixed}; on a CPU set simulate_devices={fixed}")
    if free and available % fixed:
        raise _misfit(sizes, available, f"{available} is not a multiple of {fixed}")
    return tuple(available // fixed if size == -1 else size for size in sizes.values())


def _misfit(sizes: Mapping[str, int], available: int, reason: str) -> InputError:
    table = " ".join(f"{axis}={size}" for axis, size in sizes.items())
    return InputError(f"mesh {table} does not fit {available} device(s): {reason}")
