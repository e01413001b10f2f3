"""A model's weights on the grid that a file would store them on, as a function of the weights."""

import functools
from collections.abc import Callable

import jax
from jax import Array

from flashjax import trees
from flashjax.convert.table import Layout
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import transformer_rows
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.codecs import Codec
from flashjax.quantize.policy import check_scheme, choose
from flashjax.quantize.tensors import rms
from flashjax.types import Params


def on_grid(tensors: Tensors, config: MMDiTConfig, *, scheme: str) -> Callable[[Params], Params]:
    """Builds `rounded(params)`: what a GGUF file of these weights in `scheme` stands for.

    Which weights are rounded follows from `tensors`, the model's under SAI's names; the others
    pass. Codes are the encoder's own, byte for byte those that the file will have.
    """
    codec = check_scheme(scheme)
    rows = [
        row
        for row in transformer_rows(config, "sai")
        for name in row.keys
        if choose(name, row.shape, scheme=scheme, rms=rms(tensors[name])).codec is codec
    ]

    def rounded(params: Params) -> Params:
        leaves = trees.flatten(params)
        for row in rows:
            take, put = _movers(row.layout)
            weight = take(leaves[row.path], row.layer)
            stored = _through(codec, weight)
            leaves[row.path] = put(leaves[row.path], stored, row.layer)
        return trees.unflatten(leaves)

    return rounded


def _through(codec: Codec, weight: Array) -> Array:
    return codec.decode(codec.encode(weight))


@functools.cache
def _movers(layout: Layout) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """`take(leaf, layer)` -> the file's tensor "out in"; `put` writes one back into the leaf."""

    def take(leaf: Array, layer: int | None) -> Array:
        return layout.to_file(leaf if layer is None else leaf[layer]).reshape(layout.shape)

    def put(leaf: Array, stored: Array, layer: int | None) -> Array:
        value = layout.from_file(stored).astype(leaf.dtype)
        return value if layer is None else leaf.at[layer].set(value)

    return jax.jit(take), jax.jit(put)
