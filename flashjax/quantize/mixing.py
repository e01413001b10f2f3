"""Eight bits where they help most: a type for each weight, within a size, by measured error."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from flashjax import trees
from flashjax.convert.table import Row
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import transformer_rows
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.codecs.codec import Q6_K, Q8_0, Codec
from flashjax.quantize.codecs.tensors import decode_tensor, rms
from flashjax.quantize.containers.gguf_export import Calibration, encode_known
from flashjax.quantize.policy import Choice, choose
from flashjax.types import InputError, Params

ROW_BYTES = 256  # at most: what a tensor's name, shape and padding take in a file


def choose_codecs(
    sizes: Mapping[str, int], error_of: Callable[[str, Codec], float], *, budget_bytes: int
) -> dict[str, Codec]:
    """Q6_K or Q8_0 for each weight, so that all together take at most `budget_bytes`.

    `sizes` counts the weights of each; `error_of(name, codec)` is the error energy of the model's
    output when that weight alone is stored so. Errors of weights add up, being independent; so
    those weights are raised first whose error falls most for each byte that it costs. InputError
    where even six bits for all do not fit.
    """
    smallest = sum(Q6_K.encoded_bytes(size) for size in sizes.values())
    if smallest > budget_bytes:
        raise InputError(
            f"--size_mb: weights that may have six bits take {smallest / 1e6:.2f} MB and have "
            f"{budget_bytes / 1e6:.2f} MB beside all others; allow more"
        )
    extra = {
        name: Q8_0.encoded_bytes(size) - Q6_K.encoded_bytes(size) for name, size in sizes.items()
    }
    gains = {name: error_of(name, Q6_K) - error_of(name, Q8_0) for name in sizes}
    chosen = dict.fromkeys(sizes, Q6_K)
    left = budget_bytes - smallest
    for name in sorted(sizes, key=lambda name: gains[name] / extra[name], reverse=True):
        if gains[name] > 0 and extra[name] <= left:
            chosen[name], left = Q8_0, left - extra[name]
    return chosen


def mixed(
    tensors: Tensors,
    config: MMDiTConfig,
    params: Params,
    error: Callable[[Params], float],
    *,
    moments: Mapping[str, np.ndarray],
    size_bytes: int,
) -> Calibration:
    """The types of a file of at most `size_bytes`, and the moments that six bits are rounded by.

    `tensors` have SAI's names and `params` is their tree; `error(params)` is the error energy of
    the output. Weights that the policy gives another type than Q6_K keep it, whatever it takes.
    """
    choices = {name: _choice(name, tensors[name]) for name in tensors}
    free = {name: tensors.infos[name].size for name in tensors if choices[name].codec is Q6_K}
    fixed = ROW_BYTES * len(tensors) + sum(
        choice.codec.encoded_bytes(tensors.infos[name].size)
        for name, choice in choices.items()
        if name not in free
    )
    known = Calibration(moments, {})
    rows = {row.keys[0]: row for row in transformer_rows(config, "sai")}
    leaves = {path: jnp.asarray(leaf) for path, leaf in trees.flatten(params).items()}

    def error_of(name: str, codec: Codec) -> float:
        codes, _ = encode_known(known, name, tensors[name], codec)
        stored = decode_tensor(codes, codec, shape=tensors.infos[name].shape)
        row, leaf = rows[name], leaves[rows[name].path]
        # Laid out as it was, or the model is compiled anew for every leaf that another replaces.
        changed = jax.device_put(_put(row, leaf, stored), leaf.sharding)
        return error(trees.unflatten(leaves | {row.path: changed}))

    return Calibration(moments, choose_codecs(free, error_of, budget_bytes=size_bytes - fixed))


def _choice(name: str, array: np.ndarray) -> Choice:
    return choose(name, array.shape, scheme="q6_k", rms=rms(array))


@functools.partial(jax.jit, static_argnums=0)
def _put(row: Row, leaf: jax.Array, stored: np.ndarray) -> jax.Array:
    return row.put(leaf, jnp.asarray(stored))
