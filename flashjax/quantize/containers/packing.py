"""Weights kept as a few tensors each, in safetensors: what is common to ComfyUI, MLX and torchao.

Every stored tensor is a jitted function of the weight, computed when it is read, so that a file is
written without ever holding more than one weight of the model.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.convert.tensors import Info, Shape, Tensors
from flashjax.quantize.policy import WIDER
from flashjax.types import InputError

WEIGHT, SCALE = ".weight", ".weight_scale"
Chosen = Callable[[str, Shape], bool]  # of a tensor's name and shape: whether it is packed


@dataclass(frozen=True)
class Packing:
    """A way to keep the weight "out in" of a linear layer.

    `parts`: what follows the layer's name -> the function of the float32 weight that gives it.
    `unpack`: these tensors -> the float32 weight that they stand for. `columns` must divide "in".
    """

    name: str
    columns: int
    parts: Mapping[str, Callable[[Array], Array]]
    unpack: Callable[[Mapping[str, Array]], Array]


def packed(tensors: Tensors, packing: Packing, *, chosen: Chosen) -> Tensors:
    """`tensors`, those weights that are `chosen` and fit replaced by the parts of `packing`."""
    infos: dict[str, Info] = {}
    makers: dict[str, tuple[str, Callable[[Array], Array]]] = {}
    for name, info in tensors.infos.items():
        fits = (
            name.endswith(WEIGHT) and len(info.shape) == 2 and not info.shape[1] % packing.columns
        )
        if not (fits and chosen(name, info.shape)):
            infos[name] = info
            continue
        for suffix, make in packing.parts.items():
            key = name.removesuffix(WEIGHT) + suffix
            made = jax.eval_shape(make, jax.ShapeDtypeStruct(info.shape, np.float32))
            infos[key], makers[key] = Info(made.shape, np.dtype(made.dtype)), (name, _jitted(make))

    @functools.lru_cache(maxsize=1)
    def read(key: str) -> np.ndarray:
        name, make = makers[key]
        weight = tensors[name].astype(np.float32)
        if not np.isfinite(weight).all():
            raise InputError(f"{tensors.where}: tensor {name} is not finite; mend the checkpoint")
        made = np.asarray(make(jnp.asarray(weight))).reshape(-1)
        if not np.isfinite(made).all():
            raise InputError(
                f"{tensors.where}: tensor {name} is too large for {packing.name}: {WIDER}"
            )
        return made

    def piece(key: str, start: int, stop: int) -> np.ndarray:
        return read(key)[start:stop] if key in makers else tensors.piece(key, start, stop)

    return Tensors(tensors.where, infos, piece, tensors.metadata)


def unpacked(tensors: Tensors, packing: Packing) -> Tensors:
    """The inverse of `packed`: every weight in float32, the other tensors as they are."""
    layers = set(packed_layers(tensors, packing))
    parts = {layer + suffix for layer in layers for suffix in packing.parts}
    infos = {name: info for name, info in tensors.infos.items() if name not in parts}
    unpack = _jitted(packing.unpack)

    @functools.lru_cache(maxsize=1)
    def read(layer: str) -> np.ndarray:
        return np.asarray(unpack({suffix: tensors[layer + suffix] for suffix in packing.parts}))

    for layer in layers:
        stored = {suffix: tensors.infos[layer + suffix] for suffix in packing.parts}
        abstract = jax.tree.map(lambda info: jax.ShapeDtypeStruct(info.shape, info.dtype), stored)
        made = jax.eval_shape(packing.unpack, abstract)
        infos[layer + WEIGHT] = Info(made.shape, np.dtype(np.float32))

    def piece(name: str, start: int, stop: int) -> np.ndarray:
        layer = name.removesuffix(WEIGHT)
        if layer in layers:
            return read(layer).reshape(-1)[start:stop]
        return tensors.piece(name, start, stop)

    return Tensors(tensors.where, infos, piece, tensors.metadata)


def packed_layers(tensors: Tensors, packing: Packing) -> Iterator[str]:
    """The names of the layers that are kept in this way."""
    first, *rest = sorted(packing.parts, key=lambda suffix: suffix == WEIGHT)
    for name in tensors:
        layer = name.removesuffix(first)
        if layer != name and all(layer + suffix in tensors for suffix in rest):
            yield layer


@functools.cache
def _jitted(function: Callable) -> Callable:
    return jax.jit(function)


def int8_codes(weight: Array, scale: Array) -> Array:
    """weight / scale, rounded half to even, as int8."""
    return jnp.clip(jnp.round(weight / scale), -128, 127).astype(jnp.int8)
