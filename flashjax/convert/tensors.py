"""Named tensors that are read when asked for: of a file, of memory, or of a parameter tree.

Both ends of a conversion are such tensors, so that neither ever holds a whole model.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from flashjax.types import InputError, listed

Shape = tuple[int, ...]
SMALL_ENERGY = 1e-24  # where squares may have lost digits


@dataclass(frozen=True)
class Info:
    """What is known of a tensor before it is read."""

    shape: Shape
    dtype: np.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Tensors(Mapping[str, np.ndarray]):
    """A mapping from name to array that reads an array whenever it is looked up.

    `where` is what messages call the source; `piece(name, start, stop)` reads only these elements
    of the flattened tensor, in its stored dtype; `metadata` is a file's own.
    """

    where: str
    infos: Mapping[str, Info]
    piece: Callable[[str, int, int], np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        info = self.infos[name]
        return self.piece(name, 0, info.size).reshape(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __contains__(self, name: object) -> bool:
        return name in self.infos  # a mapping's own way is to read it

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: info.shape for name, info in self.infos.items()}

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.infos.values())

    def under(self, prefix: str) -> "Tensors":
        """Those whose name begins with `prefix`, without it."""
        names = {name: name.removeprefix(prefix) for name in self if name.startswith(prefix)}
        return self.renamed(names, where=f"{self.where} {prefix}" if prefix else self.where)

    def without(self, *names: str) -> "Tensors":
        """All but `names`."""
        return self.renamed({name: name for name in self if name not in names}, where=self.where)

    def prefixed(self, prefix: str) -> "Tensors":
        """All, each name with `prefix` before it."""
        return self.renamed({name: prefix + name for name in self}, where=self.where)

    def overlaid(
        self,
        made: Mapping[str, Info],
        read: Callable[[str], np.ndarray],
        *,
        without: Collection[str] = (),
    ) -> "Tensors":
        """All but `without`, and `made`, which `read` gives whole: the last one read is kept."""
        infos = {name: info for name, info in self.infos.items() if name not in without}
        last = functools.lru_cache(maxsize=1)(lambda name: read(name).reshape(-1))

        def piece(name: str, start: int, stop: int) -> np.ndarray:
            return last(name)[start:stop] if name in made else self.piece(name, start, stop)

        return Tensors(self.where, {**infos, **made}, piece, self.metadata)

    def shaped(self, shapes: Mapping[str, Shape]) -> "Tensors":
        """The same elements in the same order, those of `shapes` under another shape."""
        new = {name: Info(shape, self.infos[name].dtype) for name, shape in shapes.items()}
        return Tensors(self.where, {**self.infos, **new}, self.piece, self.metadata)

    def in_dtype(self, dtype: np.dtype) -> "Tensors":
        """The same numbers, all of `dtype`."""
        infos = {name: Info(info.shape, dtype) for name, info in self.infos.items()}

        def piece(name: str, start: int, stop: int) -> np.ndarray:
            return self.piece(name, start, stop).astype(dtype, copy=False)

        return Tensors(self.where, infos, piece, self.metadata)

    def renamed(self, names: Mapping[str, str], *, where: str) -> "Tensors":
        """Those that `names` lists, old name to new."""
        old = {new: name for name, new in names.items()}
        infos = {new: self.infos[name] for new, name in old.items()}
        return Tensors(where, infos, lambda new, *ends: self.piece(old[new], *ends), self.metadata)


def in_memory(arrays: Mapping[str, np.ndarray], where: str = "memory") -> Tensors:
    """Arrays that are there already."""
    infos = {name: Info(array.shape, array.dtype) for name, array in arrays.items()}
    return Tensors(where, infos, lambda name, start, stop: arrays[name].reshape(-1)[start:stop])


def shapes_only(infos: Mapping[str, Info]) -> Tensors:
    """Tensors to be counted, that nobody reads."""

    def unread(name: str, start: int, stop: int) -> np.ndarray:
        raise OSError(f"{name} has a shape only")

    return Tensors("shapes", infos, unread)


def computed(where: str, infos: Mapping[str, Info], read: Callable[[str], np.ndarray]) -> Tensors:
    """Tensors that only exist whole: pieces of one after the other compute it once."""
    last = functools.lru_cache(maxsize=1)(read)
    return Tensors(where, infos, lambda name, start, stop: last(name).reshape(-1)[start:stop])


def joined(*parts: Tensors) -> Tensors:
    """All tensors of all parts. InputError for a name that two of them have."""
    owners: dict[str, Tensors] = {}
    for part in parts:
        twice = [name for name in part if name in owners]
        if twice:
            others = ", ".join(dict.fromkeys(owners[name].where for name in twice))
            raise InputError(f"{part.where}: {listed(twice)} is in {others} too")
        owners |= dict.fromkeys(part, part)
    infos = {name: owner.infos[name] for name, owner in owners.items()}
    metadata = {key: value for part in parts for key, value in part.metadata.items()}
    where = ", ".join(dict.fromkeys(part.where for part in parts))
    return Tensors(where, infos, lambda name, *ends: owners[name].piece(name, *ends), metadata)


def energy(array: np.ndarray) -> float:
    """The sum of squares, of numbers too whose squares float32 has not."""
    flat = array.reshape(-1).astype(np.float32, copy=False)
    found = float(flat @ flat)
    return found if found > SMALL_ENERGY else float(np.square(flat, dtype=np.float64).sum())
