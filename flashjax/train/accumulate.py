"""Gradients of a batch too large to differentiate at once: part by part, summed in fp32.

Parts take every n-th sample, so that a batch that is split over devices stays where it is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.types import InputError, Metrics, Params

Loss = Callable[..., tuple[Array, Metrics]]  # loss(params, *shared, batch, key)


def gradients(loss: Loss, parts: int) -> Callable[..., tuple[Params, Metrics]]:
    """Builds `gradients(params, *shared, batch, key) -> (grads, metrics)`: means over all parts.

    Every part has random numbers of its own. InputError for a batch that does not divide.
    """
    of_one = jax.grad(loss, has_aux=True)
    if parts == 1:
        return of_one

    def of_all(params: Params, *rest: Any) -> tuple[Params, Metrics]:
        *shared, batch, key = rest
        split = jax.tree.map(lambda leaf: _parts(leaf, parts), batch)

        def add(total: Any, part: tuple[Any, Array]) -> tuple[Any, None]:
            samples, number = part
            found = of_one(params, *shared, samples, jax.random.fold_in(key, number))
            return jax.tree.map(lambda a, b: a + b / parts, total, found), None

        first = jax.tree.map(lambda leaf: leaf[0], split)
        shapes = jax.eval_shape(of_one, params, *shared, first, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, (split, jnp.arange(parts)))
        return total

    return of_all


def _parts(leaf: Any, parts: int) -> Array:
    """ "b ..." to "parts b/parts ...": sample i is in part i mod parts."""
    if len(leaf) % parts:
        raise InputError(f"a batch of {len(leaf)} samples does not divide into {parts} parts")
    leaf = jnp.asarray(leaf)
    return jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)
