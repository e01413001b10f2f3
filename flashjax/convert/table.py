"""Tables that are read both ways: each row says where one leaf lies in a file, and how.

A file holds torch's layout: output dim first, convolutions channel-first. Arrays are moved on the
devices: the host only ever holds a piece of one tensor.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from flashjax import trees
from flashjax.convert.fields import say
from flashjax.convert.tensors import Info, Shape, Tensors
from flashjax.types import InputError, Params, listed

_SUFFIXES = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}


@dataclass(frozen=True)
class Layout:
    """In a file, a leaf is `leaf.reshape(split).transpose(order).reshape(shape)`.

    `parts` counts the tensors that the file cuts this into, equal pieces of its first dim: a fused
    projection. `swap` exchanges the halves of the first dim.
    """

    leaf: Shape
    split: Shape
    order: Shape
    shape: Shape
    parts: int = 1
    swap: bool = False

    @property
    def keeps_order(self) -> bool:
        """Whether the elements lie in the file as they do in the leaf."""
        return self.order == tuple(range(len(self.order))) and not self.swap

    def to_file(self, leaf: Any) -> Any:
        """The elements of the file's tensors, "parts size"."""
        stored = leaf.reshape(self.split).transpose(self.order).reshape(self.shape)
        return self._swapped(stored).reshape(self.parts, -1)

    def from_file(self, stored: Array) -> Array:
        """The leaf of "parts size" elements."""
        stored = self._swapped(stored.reshape(self.shape))
        moved = stored.reshape([self.split[dim] for dim in self.order])
        return moved.transpose(np.argsort(self.order)).reshape(self.leaf)

    def _swapped(self, stored: Any) -> Any:
        if not self.swap:
            return stored
        return stored.__array_namespace__().roll(stored, stored.shape[0] // 2, axis=0)


def reshaped(leaf: Shape, shape: Shape) -> Layout:
    """The same order of elements under another shape."""
    return Layout(leaf, leaf, tuple(range(len(leaf))), shape)


def vector(leaf: Shape) -> Layout:
    """A bias or scale: all its dims become one."""
    return reshaped(leaf, (math.prod(leaf),))


def linear(leaf: Shape, *, inputs: int = 1) -> Layout:
    """A kernel whose first `inputs` dims are summed over: "out in", each fused to one dim."""
    dims = tuple(range(len(leaf)))
    shape = math.prod(leaf[inputs:]), math.prod(leaf[:inputs])
    return Layout(leaf, leaf, dims[inputs:] + dims[:inputs], shape)


def conv(leaf: Shape, *, split: Shape | None = None) -> Layout:
    """A convolution "h w in out" (which `split` recovers from a flattened leaf): "out in h w"."""
    h, w, inputs, outputs = split or leaf
    return Layout(leaf, (h, w, inputs, outputs), (3, 2, 0, 1), (outputs, inputs, h, w))


@dataclass(frozen=True)
class Row:
    """One leaf, or one layer of a stacked leaf; `keys` name its tensors, one for each part."""

    path: str
    keys: tuple[str, ...]
    layout: Layout
    layer: int | None = None

    @property
    def shape(self) -> Shape:
        """The shape of each key's tensor."""
        first, *rest = self.layout.shape
        return first // self.layout.parts, *rest

    def take(self, leaf: Any) -> Any:
        """The elements "parts size" of the row's tensors, out of its leaf."""
        return self.layout.to_file(leaf if self.layer is None else leaf[self.layer])

    def put(self, leaf: Array, stored: Array) -> Array:
        """The leaf with the row's tensors, as `take` gives them, in their place."""
        value = self.layout.from_file(stored).astype(leaf.dtype)
        return value if self.layer is None else leaf.at[self.layer].set(value)


def row(
    path: str,
    keys: tuple[str, ...],
    layout: Layout,
    *,
    layer: int | None = None,
    swap: bool = False,
) -> Row:
    """The row of a leaf whose tensors are `keys`, each an equal piece of `layout`'s first dim."""
    return Row(path, keys, dataclasses.replace(layout, parts=len(keys), swap=swap), layer)


@dataclass(frozen=True)
class Placement:
    """How an imported tree is kept: in `dtype` (None: as stored), laid out by `shardings`.

    `shardings` turns the abstract tree into a tree of shardings; None is the first device. A leaf
    as stored has `widest` where its tensors are of several dtypes, of a wider one, or of 8 bits.
    """

    dtype: Any = None
    shardings: Callable[[Params], Params] | None = None
    widest: Any = None


AS_STORED, FLOAT32 = Placement(), Placement(np.dtype(np.float32))


def exact_dtype(dtypes: Collection[np.dtype]) -> np.dtype:
    """The narrowest dtype that holds every number of each of `dtypes`."""
    if len(dtypes) == 1:
        return next(iter(dtypes))
    wide = {dtype for dtype in dtypes if dtype.itemsize > 1}
    if not wide:  # of 8 bits two kinds: float16 has the exponents of one, the fraction of the other
        return np.dtype(np.float16)
    return next(iter(wide)) if len(wide) == 1 else np.dtype(np.float32)


def split_path(path: str) -> tuple[str, str]:
    """Of "a/qkv/kernel": ("a/qkv", ".weight"). A parameter outside a layer has no suffix."""
    module, _, parameter = path.rpartition("/")
    return (module, _SUFFIXES[parameter]) if parameter in _SUFFIXES else (path, "")


def to_tensors(rows: Iterable[Row], params: Params) -> Tensors:
    """The tensors of a file, in the dtype of `params`, each computed when it is read.

    Leaves on devices are moved there; numpy arrays on the host, and no device has to hold them.
    InputError if the parameters do not fit the rows.
    """
    rows = list(rows)
    trees.check_same(_abstract(rows), params, where="the parameter tree")
    leaves = trees.flatten(params)
    places = {key: (row, part) for row in rows for part, key in enumerate(row.keys)}
    infos = {key: Info(row.shape, leaves[row.path].dtype) for key, (row, _) in places.items()}

    @functools.lru_cache(maxsize=1)
    def stored(row: Row) -> np.ndarray:
        leaf = leaves[row.path]
        if isinstance(leaf, np.ndarray):
            return row.take(leaf)
        return np.asarray(_taker(row.layout, leaf.sharding)(leaf, row.layer))

    def piece(name: str, start: int, stop: int) -> np.ndarray:
        row, part = places[name]
        if row.layout.keeps_order and row.layer is None:
            # Cut where it lies: the place table, the largest of all, costs no copy of itself.
            leaf, first = leaves[row.path], part * infos[name].size + start
            if isinstance(leaf, np.ndarray):
                return leaf.reshape(-1)[first : first + stop - start]
            return np.asarray(_cutter(stop - start, leaf.sharding)(leaf, first))
        return stored(row)[part, start:stop]

    return Tensors("the parameter tree", infos, piece)


def from_tensors(rows: Iterable[Row], tensors: Tensors, placement: Placement = AS_STORED) -> Params:
    """The parameter tree, one tensor at a time onto the devices.

    Each process reads an equal share of every tensor; the devices exchange what their layout needs.
    One InputError for all that is missing, extra or mis-shaped; one for all that is not finite.
    """
    rows = list(rows)
    check_shapes(rows, tensors)
    abstract = _abstract(rows)
    shardings = trees.flatten(placement.shardings(abstract)) if placement.shardings else {}
    leaves: dict[str, Array] = {}
    broken: list[str] = []
    groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.path)]
    # A large tensor takes room of its own while it is moved: take it while little else is there.
    for group in sorted(groups, key=lambda group: -math.prod(group[0].shape)):
        path = group[0].path
        sharding = shardings.get(path, SingleDeviceSharding(jax.local_devices()[0]))
        dtype = placement.dtype
        if dtype is None:
            dtype = _common_dtype(group, tensors, placement.widest)
        leaves[path], found = _load(group, tensors, dtype, sharding)
        broken += found
    if broken:
        raise InputError(f"{tensors.where} is not finite in: {listed(broken, separator='; ')}")
    return trees.unflatten(leaves)


def translated_rows(tensors: Tensors, given: list[Row], wanted: list[Row]) -> Tensors:
    """Tensors that lie as `given` says, as `wanted` says: row for row the same leaves.

    Each is read when it is asked for, without a tree. InputError if they are not exactly `given`'s.
    """
    check_shapes(given, tensors)
    infos, places = {}, {}
    for source, target in zip(given, wanted, strict=True):
        dtype = exact_dtype({tensors.infos[key].dtype for key in source.keys})
        for part, key in enumerate(target.keys):
            infos[key], places[key] = Info(target.shape, dtype), (source, target, part)

    @functools.lru_cache(maxsize=1)
    def whole(source: Row, target: Row) -> np.ndarray:
        dtype = infos[target.keys[0]].dtype
        flat = np.concatenate([tensors[key].reshape(-1).astype(dtype) for key in source.keys])
        swapped = source.layout.swap != target.layout.swap
        return np.roll(flat, flat.size // 2) if swapped else flat

    def piece(name: str, start: int, stop: int) -> np.ndarray:
        source, target, part = places[name]
        offset = part * infos[name].size
        return whole(source, target)[offset + start : offset + stop]

    return Tensors(tensors.where, infos, piece, tensors.metadata)


def check_shapes(rows: Iterable[Row], tensors: Tensors) -> None:
    """InputError unless the tensors are exactly the rows': every name, every shape, all numbers.

    What is missing, extra or mis-shaped is in one line.
    """
    expected = {key: row.shape for row in rows for key in row.keys}
    trees.check_shapes(expected, tensors.shapes, where=tensors.where)
    codes = [
        f"{key} is {info.dtype.name}"
        for key, info in tensors.infos.items()
        if not jnp.issubdtype(info.dtype, jnp.floating)
    ]
    if codes:
        raise InputError(f"{tensors.where}: {listed(codes)}: codes without scales, no weights")


def _load(
    rows: list[Row], tensors: Tensors, dtype: Any, sharding: Sharding
) -> tuple[Array, list[str]]:
    """One leaf, its layers one after the other, and the tensors of it that are not finite."""
    layout, stacked = rows[0].layout, rows[0].layer is not None
    leaf: Any = jnp.zeros((len(rows), *layout.leaf), dtype, device=sharding) if stacked else None
    broken: list[str] = []
    for row in rows:
        put = _putter(row.layout, dtype, sharding)
        leaf, finite = put(leaf, _read(row, tensors, sharding), row.layer)
        finite = np.asarray(finite)  # wait: the host keeps one tensor, not a queue of them
        broken += itertools.compress(row.keys, ~finite)
    return leaf, broken


def _read(row: Row, tensors: Tensors, sharding: Sharding) -> Array:
    """The elements "parts size" of one row, each device's share read for it alone."""
    info = tensors.infos[row.keys[0]]
    dtype = exact_dtype({tensors.infos[key].dtype for key in row.keys})

    def share(index: tuple[slice, ...] | None) -> np.ndarray:
        start, stop, _ = (slice(None) if index is None else index[1]).indices(info.size)
        pieces = [tensors.piece(key, start, stop).astype(dtype, copy=False) for key in row.keys]
        return pieces[0][None] if len(pieces) == 1 else np.stack(pieces)

    shape = (len(row.keys), info.size)
    return jax.make_array_from_callback(shape, _even(sharding, info.size), share)


def _even(sharding: Sharding, size: int) -> Sharding:
    """Elements spread over all devices, or on each of them where they do not divide."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    mesh = sharding.mesh
    spread = PartitionSpec(None, mesh.axis_names) if size % mesh.size == 0 else PartitionSpec()
    return NamedSharding(mesh, spread)


def _replicated(sharding: Sharding) -> Sharding:
    mesh = getattr(sharding, "mesh", None)
    return sharding if mesh is None else NamedSharding(mesh, PartitionSpec())


@functools.cache
def _putter(layout: Layout, dtype: np.dtype, sharding: Sharding) -> Callable:
    """`put(leaf, stored, layer)` -> (the leaf with this layer in place, which parts are finite)."""

    def put(leaf: Array | None, stored: Array, layer: int | None) -> tuple[Array, Array]:
        finite = jnp.isfinite(stored).all(axis=1)
        value = layout.from_file(stored).astype(dtype)
        if leaf is not None:
            value = jax.lax.dynamic_update_index_in_dim(leaf, value, layer, 0)
        return value, finite

    return jax.jit(put, donate_argnums=0, out_shardings=(sharding, _replicated(sharding)))


@functools.cache
def _taker(layout: Layout, sharding: Sharding) -> Callable:
    """`take(leaf, layer)` -> the elements "parts size" of the file's tensors."""

    def take(leaf: Array, layer: int | None) -> Array:
        return layout.to_file(leaf if layer is None else leaf[layer])

    return jax.jit(take, out_shardings=_replicated(sharding))


@functools.cache
def _cutter(length: int, sharding: Sharding) -> Callable:
    """`cut(leaf, first)` -> the `length` elements of a leaf from `first` on, in its own order."""

    def cut(leaf: Array, first: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(leaf.reshape(-1), first, length)

    return jax.jit(cut, out_shardings=_replicated(sharding))


def _common_dtype(rows: list[Row], tensors: Tensors, widest: Any) -> np.dtype:
    """The dtype that all tensors of a leaf are stored in; of several, one that holds each exactly.

    `widest` stands for all wider ones, and for those that are mixed or of 8 bits.
    """
    stored = {tensors.infos[key].dtype for row in rows for key in row.keys}
    if widest is not None:
        (dtype,) = stored if len(stored) == 1 else (widest,)
        return dtype if 2 <= dtype.itemsize <= widest.itemsize else widest
    dtype = exact_dtype(stored)
    if len(stored) > 1:
        names = " and ".join(sorted(found.name for found in stored))
        say(f"{tensors.where} mixes {names} in layers that are kept as one: in {dtype.name}")
    return dtype


def _abstract(rows: Iterable[Row]) -> Params:
    leaves = {}
    for row in rows:
        lead = () if row.layer is None else (row.layer + 1,)  # the last layer's row stays
        leaves[row.path] = jax.ShapeDtypeStruct((*lead, *row.layout.leaf), np.float32)
    return trees.unflatten(leaves)
