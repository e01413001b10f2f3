"""What the devices of this process could do at most: from the table, or measured on a CPU."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.parallel.chips import CHIPS, Chip, chip_of
from flashjax.types import InputError

SIDE = 1024  # of the matrices whose product a CPU's peak is measured with, in float32
TRIES = 5


def find_chip(name: str | None, kind: str) -> Chip:
    """The chip of the table that was named, or that the device's own name has in it."""
    found = chip_of(kind) if name is None else CHIPS.get(name)
    if found is None:
        asked = f"--chip {name} is unknown" if name else f"no chip of the table is called {kind}"
        raise InputError(f"{asked}: give --chip of {', '.join(CHIPS)}")
    return found


@functools.cache
def device_peak() -> float | None:
    """FLOP/s of one local device, dense: of the table in bfloat16, of a CPU measured in float32.

    Simulated devices share the cores. None for a chip that the table does not know.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return measured_peak() / jax.local_device_count()
    try:
        return find_chip(None, device.device_kind).flops
    except InputError:
        return None


def measured_peak() -> float:
    """FLOP/s of the best of some matrix products on all cores, 0.1 s of them."""
    call, flops = product()
    call()
    seconds = []
    for _ in range(TRIES):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return flops / min(seconds)


def product(side: int = SIDE, dtype: jnp.dtype = jnp.float32) -> tuple[Callable[[], Array], float]:
    """A product of square matrices on the first device, over when it returns, and its FLOP."""
    matrix = jnp.ones((side, side), dtype)
    compiled = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    return lambda: compiled(matrix, matrix).block_until_ready(), 2.0 * side**3
