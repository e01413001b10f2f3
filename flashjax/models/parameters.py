"""A network's parameters as a program holds them, and as its layers read them.

XLA's CPU compiler has no loops over bfloat16: what they carry it widens, so that a model of scanned
blocks that is stored in two bytes a weight would take six. As integers of the same bits the weights
go in as they are, and each layer reads its own.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import Initializer
from jax import Array

from flashjax.types import Params

BITS = jnp.uint16
LARGE = ("kernel", "tokens", "position")  # what layers read through `held`


def parameter(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
    """A parameter of `module`, as floats."""
    return as_floats(held(module, name, init, shape))


def held(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
    """A parameter of `module` as it is held; one that is there is asked for its shape, and no more.

    Flax would trace its initialiser at every use, to compare shapes: two fifths of the time that
    tracing a network takes.
    """
    there = None if module.is_initializing() else module.get_variable("params", name)
    if there is None or there.shape != shape:
        return module.param(name, init, shape, jnp.float32)  # makes it, or says what is wrong
    return there


def as_floats(array: Array) -> Array:
    """What `held` gives, or a part of it: a table is cut, or looked up in, before it is read."""
    return jax.lax.bitcast_convert_type(array, jnp.bfloat16) if array.dtype == BITS else array


def as_bits(params: Params) -> Params:
    """Large bfloat16 leaves that lie on a CPU as integers of the same memory; others as they are.

    For programs that draw, not for those that are differentiated.
    """
    on_cpu = jax.default_backend() == "cpu"
    return jax.tree_util.tree_map_with_path(_bits, params) if on_cpu else params


def _bits(path: tuple, leaf: Any) -> Any:
    held_here = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    if not held_here or path[-1].key not in LARGE or leaf.dtype != jnp.bfloat16:
        return leaf
    shards = leaf.addressable_shards
    views = [jax.device_put(np.asarray(s.data).view(BITS), s.device) for s in shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, views)
