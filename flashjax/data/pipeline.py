"""Samples to batches, forever: shuffled anew each epoch, resumable to the batch.

Letters: n samples, b batch.
"""

from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flashjax import trees
from flashjax.types import InputError


class Batches:
    """An endless iterator of host batches; `get_state` and `set_state` are its position."""

    def __init__(self, samples: Any, *, batch_size: int, seed: int) -> None:
        self._samples = samples
        number = len(jax.tree.leaves(samples)[0])
        order = grain.MapDataset.range(number).shuffle(seed=seed).repeat().batch(batch_size)
        # The indices are all that grain reads: no threads needed, and nothing is read ahead.
        self._indices = iter(order.to_iter_dataset(grain.ReadOptions(num_threads=0)))

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        chosen = next(self._indices)
        return jax.tree.map(lambda array: array[chosen], self._samples)

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return self._indices.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position: the next batch is the one that followed `get_state`."""
        self._indices.set_state(state)


def batches(samples: Any, *, batch_size: int, seed: int) -> Batches:
    """Batches of a tree of host arrays "n ...", such as a `Batch` or plain images.

    InputError for no samples or arrays of different length.
    """
    lengths = {path: len(array) for path, array in trees.flatten(samples).items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InputError(f"data needs arrays of one length, and at least one sample: {lengths}")
    return Batches(samples, batch_size=batch_size, seed=seed)


def to_mesh(batch: Any, mesh: Mesh) -> Any:
    """A host batch on the mesh, its first dim split over the axes data and fsdp.

    Every process has drawn the same indices, and puts the rows of its own devices there.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    size = len(jax.tree.leaves(batch)[0])
    if size % parts:
        raise InputError(f"batch_size {size} does not split over data x fsdp = {parts} devices")
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, rows, lambda index: array[index])

    return jax.tree.map(put, batch)


def stack(source: Any, field: str) -> np.ndarray:
    """One field of every element of a random-access source, as an array "n ..."."""
    return np.stack([source[index][field] for index in range(len(source))])
