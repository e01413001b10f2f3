"""Checksums of arrays that any mesh computes alike: what was saved is known when it is restored.

Every element's bits are weighted by an odd number that its place in the array gives, and summed
modulo 2**32: sums of integers do not depend on their order, so neither on how an array is split;
and the change of one element, times an odd number, is never 0.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax import trees
from flashjax.types import listed

GOLDEN = 0x9E3779B1  # 2**32 over the golden ratio: neighbours get weights that are far apart
PART = 2**16  # elements that a host weighs at once: they stay in a core's cache


def checksums(tree: Any) -> dict[str, int]:
    """32 bits of each leaf by its path, computed where it lies: on devices, or on this host."""
    leaves = trees.flatten(tree)
    here = {path: _on_host(_gathered(x)) for path, x in leaves.items() if _is_here(x)}
    # One program: of many that are under way, whose devices wait for each other, a CPU with few
    # threads begins some on one device and others on another, and none ends.
    there = jax.device_get(_on_devices({p: x for p, x in leaves.items() if p not in here}))
    return {path: here[path] if path in here else int(there[path]) for path in leaves}


def check_sums(tree: Any, kept: Mapping[str, int]) -> None:
    """ValueError that names the leaves of `tree` whose checksums are not those that were kept."""
    found = checksums(tree)
    paths = sorted(found.keys() | kept.keys())
    changed = [path for path in paths if found.get(path) != kept.get(path)]
    if changed:
        raise ValueError(f"not what was saved: {listed(changed)}")


def _is_here(leaf: np.ndarray | Array) -> bool:
    """Whether this host's memory holds all of it: for what a CPU has, no program is compiled."""
    if isinstance(leaf, np.ndarray):
        return True
    on_cpu = all(device.platform == "cpu" for device in leaf.devices())
    return on_cpu and leaf.is_fully_addressable


def _gathered(leaf: np.ndarray | Array) -> np.ndarray:
    """All of it in one numpy array: one that JAX makes stays as long as the split one lives."""
    if isinstance(leaf, np.ndarray):
        return leaf
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_shards[0].data)
    whole = np.empty(leaf.shape, leaf.dtype)
    for shard in leaf.addressable_shards:
        if not shard.replica_id:
            whole[shard.index] = np.asarray(shard.data)
    return whole


@jax.jit
def _on_devices(leaves: dict[str, Array]) -> dict[str, Array]:
    return {path: _on_device(leaf) for path, leaf in leaves.items()}


@jax.jit  # of many leaves of one shape the program is traced once
def _on_device(leaf: Array) -> Array:
    """The sum of one array, uint32."""
    place, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for dim in reversed(range(leaf.ndim)):
        steps = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, dim)
        place += steps * np.uint32(stride % 2**32)
        stride *= leaf.shape[dim]
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    words = jax.lax.bitcast_convert_type(leaf, _unsigned(leaf.dtype)).astype(jnp.uint32)
    return (words * _weights(place)).sum(dtype=jnp.uint32)


def _on_host(leaf: np.ndarray) -> int:
    """The same of a numpy array, part by part."""
    flat = np.ascontiguousarray(leaf).reshape(-1)
    flat = flat.view(_unsigned(flat.dtype))
    places, total = np.arange(PART, dtype=np.uint32), 0
    for start in range(0, flat.size, PART):
        words = flat[start : start + PART]
        weights = _weights(places[: words.size] + np.uint32(start % 2**32))
        total += int((words * weights).sum(dtype=np.uint32))
    return total % 2**32


def _weights(place: Any) -> Any:
    """An odd number for every place, uint32."""
    mixed = place * np.uint32(GOLDEN)
    return (mixed ^ (mixed >> np.uint32(15))) | np.uint32(1)


def _unsigned(dtype: Any) -> Any:
    """The unsigned integer of a dtype's bits; 64 of them, as hosts have, are taken as two."""
    return np.dtype(f"uint{8 * min(4, np.dtype(dtype).itemsize)}")
