"""What gradients look like, out of the optimiser's memory: no step computes anything more.

With a first moment Adam keeps a running mean of each gradient, without one that of its square; the
histograms are of the first, or of the root of the second.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from flashjax.train.state import Learner

ENTRIES = 4096  # of every array at most, evenly


def gradient_samples(state: Any) -> Mapping[str, np.ndarray]:
    """Entries of the running gradients by "network/gradients/part", a part being a tree's top."""
    learners = {name: value for name, value in vars(state).items() if isinstance(value, Learner)}
    found: dict[str, list[Array]] = {}
    for network, learner in learners.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(_memory(learner.opt)):
            part = jax.tree_util.keystr(path[:1], simple=True)
            found.setdefault(f"{network}/gradients/{part}", []).append(_whole(leaf))
    return {name: np.concatenate(jax.device_get(parts)) for name, parts in found.items()}


def _memory(opt: optax.OptState) -> Any:
    """What the optimiser remembers of the gradients."""
    nodes = jax.tree.leaves(opt, is_leaf=lambda node: hasattr(node, "nu"))
    (memory,) = [node for node in nodes if hasattr(node, "nu")]
    return memory.mu if hasattr(memory, "mu") else jax.tree.map(jnp.sqrt, memory.nu)


def _whole(leaf: Array) -> Array:
    """Entries of an array, on every device: no process can fetch what lies on others' alone."""
    where = leaf.sharding
    if isinstance(where, NamedSharding):
        where = NamedSharding(where.mesh, PartitionSpec())
    return _some(leaf, where)


@functools.partial(jax.jit, static_argnames="where")
def _some(leaf: Array, where: Sharding) -> Array:
    """Entries of an array, evenly over it, where they are to lie."""
    flat = leaf.ravel()
    chosen = flat[:: max(1, -(-flat.size // ENTRIES))].astype(jnp.float32)
    return jax.lax.with_sharding_constraint(chosen, where)
