"""Rows of transformers whose equal blocks are scanned, from a table of transformers' names.

A table says "block/norm1": "encoder.layers.{}.layer_norm1"; {} is the layer, and several names are
the parts of a fused projection.
"""

from collections.abc import Callable, Mapping

from flashjax import trees
from flashjax.convert.table import Layout, Row, linear, reshaped, row, split_path, vector
from flashjax.convert.tensors import Shape
from flashjax.types import Params

Layouts = Callable[[str, Shape], Layout]


def layout(path: str, leaf: Shape) -> Layout:
    """How a projection, a norm or a bare parameter lies in a file."""
    if path.endswith("/proj/kernel"):
        return linear(leaf, inputs=2)
    if path.endswith("/kernel"):
        return linear(leaf)
    return reshaped(leaf, leaf) if "/" not in path else vector(leaf)


def block_rows(
    table: Mapping[str, str], abstract: Params, *, depth: int, layouts: Layouts = layout
) -> list[Row]:
    """Where every leaf lies: one row, or one for each layer of the scanned `blocks`.

    Another module with layers inside (CLIP's last block) is layer `depth - 1`.
    """
    return [
        found
        for path, leaf in trees.flatten(abstract).items()
        for found in _leaf_rows(table, path, leaf.shape, depth=depth, layouts=layouts)
    ]


def _leaf_rows(
    table: Mapping[str, str], path: str, shape: Shape, *, depth: int, layouts: Layouts
) -> list[Row]:
    module, suffix = split_path(path)
    group, _, inner = module.partition("/")
    keys = table[f"block/{inner}" if inner else module].split()

    def names(layer: int) -> tuple[str, ...]:
        return tuple(key.format(layer) + suffix for key in keys)

    if group == "blocks":
        one = layouts(path, shape[1:])
        return [row(path, names(layer), one, layer=layer) for layer in range(shape[0])]
    return [row(path, names(depth - 1), layouts(path, shape))]
