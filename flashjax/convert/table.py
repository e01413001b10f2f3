"""Tables that are read both ways: each row says where one leaf lies in a file, and how.

A file holds torch's layout: output dim first, convolutions channel-first.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from flashjax import trees
from flashjax.convert.tensors import Tensors
from flashjax.types import InputError, Params

Shape = tuple[int, ...]
_SUFFIXES = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}


@dataclass(frozen=True)
class Layout:
    """In a file, a leaf is `leaf.reshape(split).transpose(order).reshape(shape)`."""

    leaf: Shape
    split: Shape
    order: Shape
    shape: Shape

    def to_file(self, leaf: np.ndarray) -> np.ndarray:
        return leaf.reshape(self.split).transpose(self.order).reshape(self.shape)

    def from_file(self, stored: np.ndarray) -> np.ndarray:
        moved = stored.reshape([self.split[dim] for dim in self.order])
        return moved.transpose(np.argsort(self.order)).reshape(self.leaf)


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
    """One leaf, or one layer of a stacked leaf.

    Several `keys` are the parts of a fused projection: equal pieces of the first dim, in order.
    `swap` exchanges the halves of the first dim.
    """

    path: str
    keys: tuple[str, ...]
    layout: Layout
    layer: int | None = None
    swap: bool = False

    @property
    def shape(self) -> Shape:
        """The shape of each key's tensor."""
        first, *rest = self.layout.shape
        return first // len(self.keys), *rest

    def to_file(self, leaf: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors of this row, as views where numpy can."""
        stored = self.layout.to_file(leaf if self.layer is None else leaf[self.layer])
        parts = np.split(self._swapped(stored), len(self.keys))
        return dict(zip(self.keys, parts, strict=True))

    def from_file(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The leaf, or its layer, of the tensors of `keys`."""
        return self.layout.from_file(self._swapped(np.concatenate(parts)))

    def _swapped(self, stored: np.ndarray) -> np.ndarray:
        return np.roll(stored, stored.shape[0] // 2, axis=0) if self.swap else stored


def split_path(path: str) -> tuple[str, str]:
    """Of "a/qkv/kernel": ("a/qkv", ".weight"). A parameter outside a layer has no suffix."""
    module, _, parameter = path.rpartition("/")
    return (module, _SUFFIXES[parameter]) if parameter in _SUFFIXES else (path, "")


def to_tensors(rows: Iterable[Row], params: Params) -> dict[str, np.ndarray]:
    """Every tensor of a file, in the dtype of `params`. InputError if they do not fit the rows."""
    rows = list(rows)
    trees.check_same(_abstract(rows), params, where="the parameter tree")
    leaves = {path: np.asarray(leaf) for path, leaf in trees.flatten(params).items()}
    tensors: dict[str, np.ndarray] = {}
    for row in rows:
        tensors |= row.to_file(leaves[row.path])
    return tensors


def from_tensors(rows: Iterable[Row], tensors: Tensors) -> Params:
    """The parameter tree, float32.

    One InputError for all that is missing, extra or mis-shaped; one for all that is not finite.
    """
    rows = list(rows)
    expected = {key: row.shape for row in rows for key in row.keys}
    trees.check_same(_shapes(expected), _shapes(tensors.shapes), where=tensors.where)
    leaves, broken = {}, []
    for path, layers in itertools.groupby(rows, key=lambda row: row.path):
        values = []
        for row in layers:
            parts = [tensors.read(key) for key in row.keys]
            pairs = zip(row.keys, parts, strict=True)
            broken += [key for key, part in pairs if not np.isfinite(part).all()]
            values.append(row.from_file(parts))
        leaves[path] = np.ascontiguousarray(values[0]) if row.layer is None else np.stack(values)
    if broken:
        raise InputError(f"{tensors.where} is not finite in: {trees.in_one_line(broken)}")
    return trees.unflatten(leaves)


def _abstract(rows: Iterable[Row]) -> Params:
    leaves = {}
    for row in rows:
        lead = () if row.layer is None else (row.layer + 1,)  # the last layer's row stays
        leaves[row.path] = jax.ShapeDtypeStruct((*lead, *row.layout.leaf), np.float32)
    return trees.unflatten(leaves)


def _shapes(shapes: Mapping[str, Shape]) -> dict[str, jax.ShapeDtypeStruct]:
    return {key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in shapes.items()}
