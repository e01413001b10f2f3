"""A model's weights on the grid that a file would store them on, as a function of the weights."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flashjax import trees
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import transformer_rows
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.codecs.tensors import CHUNK_COLUMNS, chunk_rows, rms
from flashjax.quantize.policy import check_scheme, choose
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

    @jax.jit
    def gathered(params: Params) -> list[Array]:
        """All weights that are rounded, in chunks of one shape: encoders are compiled once."""
        leaves = trees.flatten(params)
        flat = jnp.concatenate([row.take(leaves[row.path]).reshape(-1) for row in rows])
        padded = jnp.pad(flat, (0, -flat.size % (chunk_rows() * CHUNK_COLUMNS)))
        return list(padded.reshape(-1, chunk_rows(), CHUNK_COLUMNS))

    @jax.jit
    def scattered(params: Params, chunks: list[Array]) -> Params:
        leaves = trees.flatten(params)
        flat, start = jnp.concatenate([chunk.reshape(-1) for chunk in chunks]), 0
        for row in rows:
            stop = start + math.prod(row.layout.shape)
            leaves[row.path] = row.put(leaves[row.path], flat[start:stop])
            start = stop
        return trees.unflatten(leaves)

    def rounded(params: Params) -> Params:
        chunks = [codec.decode(codec.encode(chunk)) for chunk in gathered(params)]
        return scattered(params, chunks)

    return rounded
