"""Samples to batches, forever: shuffled anew each epoch, resumable to the batch.

Every process draws the same indices and reads the rows of its own devices only, so a run goes on
with another number of processes where it stopped. Letters: n samples, b batch.
"""

import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import grain
import jax
import numpy as np
from grain.experimental import WindowShuffleMapDataset
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flashjax import trees
from flashjax.types import InputError


class Rows:
    """Rows `chosen` "b" of an array "n ...", read when they are asked for."""

    def __init__(self, array: Any, chosen: np.ndarray) -> None:
        self._array, self._chosen = array, chosen
        self.shape = (len(chosen), *array.shape[1:])

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The rows that the first slice names, of them what the others name."""
        return self._array[self._chosen[index[0]]][(slice(None), *index[1:])]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._array[self._chosen], dtype)


Chosen: TypeAlias = list[tuple[int, list[int]]]  # bucket and rows of each batch of a step


class Position(Protocol):
    """An iterator whose position is part of the checkpoint.

    `chosen` are the samples of what it gave last.
    """

    def __iter__(self) -> "Position": ...
    def __next__(self) -> Any: ...
    def chosen(self) -> Chosen: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


WINDOW = 256  # batches of several buckets that are shuffled among themselves


class Batches:
    """An endless iterator of batches of `Rows`; `get_state` and `set_state` are its position.

    A batch is of one of `buckets`, each of which comes as often as it has samples, and when cannot
    be told: the student takes every sixth batch, say, and the critic the others, and in a regular
    order some buckets would always be the one's, and some the other's.
    """

    def __init__(self, *buckets: Any, batch_size: int, seed: int) -> None:
        self._buckets = buckets
        numbers = [len(jax.tree.leaves(bucket)[0]) for bucket in buckets]
        orders = [
            grain.MapDataset.range(number)
            .shuffle(seed=seed)
            .repeat()
            .batch(batch_size)
            .map(functools.partial(_in_bucket, which))
            for which, number in enumerate(numbers)
        ]
        order = orders[0]
        if len(orders) > 1:
            mixed = grain.MapDataset.mix(orders, numbers)
            order = WindowShuffleMapDataset(mixed, window_size=WINDOW, seed=seed % 2**31)
        # The indices are all that grain reads: no threads needed, and nothing is read ahead.
        self._indices = iter(order.to_iter_dataset(grain.ReadOptions(num_threads=0)))
        self._chosen: Chosen = []

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        which, chosen = next(self._indices)
        self._chosen = [(which, chosen.tolist())]
        return jax.tree.map(lambda array: Rows(array, chosen), self._buckets[which])

    def chosen(self) -> Chosen:
        """The bucket and the rows of the last batch."""
        return self._chosen

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return self._indices.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position: the next batch is the one that followed `get_state`."""
        self._indices.set_state(state)


class Ahead:
    """Batches that `put` brings to the devices one step before they are asked for.

    The position is that of the last batch which was taken: what waits is drawn again after a stop.
    """

    def __init__(self, source: Position, put: Callable[[Any], Any]) -> None:
        self._source, self._put = source, put
        self._waiting: deque[tuple[Any, dict[str, Any], Chosen]] = deque()
        self._position = source.get_state()
        self._chosen: Chosen = []

    def __iter__(self) -> "Ahead":
        return self

    def __next__(self) -> Any:
        while len(self._waiting) < 2:
            batch = self._put(next(self._source))
            self._waiting.append((batch, self._source.get_state(), self._source.chosen()))
        batch, self._position, self._chosen = self._waiting.popleft()
        return batch

    def chosen(self) -> Chosen:
        """The bucket and the rows of the batch that was taken last."""
        return self._chosen

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return self._position

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position: the next batch is the one that followed `get_state`."""
        self._waiting.clear()
        self._source.set_state(state)
        self._position = state


class Together:
    """`number` batches of a source at a time, as a tuple; the position is that of the source."""

    def __init__(self, source: Position, number: int) -> None:
        self._source, self._number = source, number
        self._chosen: Chosen = []

    def __iter__(self) -> "Together":
        return self

    def __next__(self) -> tuple[Any, ...]:
        self._chosen, drawn = [], []
        for _ in range(self._number):
            drawn.append(next(self._source))
            self._chosen += self._source.chosen()
        return tuple(drawn)

    def chosen(self) -> Chosen:
        """The buckets and the rows of the last batches."""
        return self._chosen

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return self._source.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position: the next batch is the one that followed `get_state`."""
        self._source.set_state(state)


def batches(*buckets: Any, batch_size: int, seed: int) -> Batches:
    """Batches of trees of host arrays "n ...", such as a `Batch` or plain images.

    InputError for no samples, arrays of different length, or, of several buckets, one that does not
    fill a batch.
    """
    for bucket in buckets:
        lengths = {path: len(array) for path, array in trees.flatten(bucket).items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise InputError(f"data needs arrays of one length, and at least one sample: {lengths}")
        number, shape = next(iter(lengths.values())), jax.tree.leaves(bucket)[0].shape[1:]
        if len(buckets) > 1 and number < batch_size:
            raise InputError(
                f"a bucket has {number} samples of {shape}, fewer than a batch of {batch_size}: "
                f"set data.smallest={batch_size} to leave such buckets out, or take smaller batches"
            )
    return Batches(*buckets, batch_size=batch_size, seed=seed)


def _in_bucket(which: int, chosen: np.ndarray) -> tuple[int, np.ndarray]:
    return which, np.asarray(chosen)


def to_mesh(batch: Any, mesh: Mesh) -> Any:
    """A batch on the mesh, its first dim split over the axes data and fsdp.

    A process reads and puts there the rows of its own devices, and no others.
    """
    rows = rows_on(mesh, len(jax.tree.leaves(batch)[0]))

    def put(array: Any) -> jax.Array:
        return jax.make_array_from_callback(array.shape, rows, lambda index: array[index])

    return jax.tree.map(put, batch)


def rows_on(mesh: Mesh, size: int) -> NamedSharding:
    """Where the rows of batches of `size` lie. InputError if they do not split over the devices."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if size % parts:
        raise InputError(f"batch_size {size} does not split over data x fsdp = {parts} devices")
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
