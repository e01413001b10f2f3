"""Parameter trees by name: every leaf has a path such as "blocks/attention/kernel"."""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from flashjax.types import InputError, listed

Sizes = TypeVar("Sizes")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of any pytree by their "a/b/c" path, in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts from "a/b/c" paths: the inverse of `flatten` for trees of dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def computed_once(shapes_of: Callable[[Sizes], Any]) -> Callable[[Sizes], Any]:
    """A function from sizes to a tree of shapes that traces a model of equal sizes only once."""
    once = functools.cache(shapes_of)

    @functools.wraps(shapes_of)
    def shapes(sizes: Sizes) -> Any:
        return jax.tree.map(lambda leaf: leaf, once(sizes))  # a tree of the caller's own

    return shapes


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating leaves in `dtype`; integers, booleans and keys stay."""

    def cast_leaf(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast_leaf, tree)


def count(tree: Any) -> int:
    """Number of scalars in the tree; abstract leaves count too."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def check_same(want: Any, got: Any, *, where: str) -> None:
    """Raise InputError unless `got` (from `where`) has the paths and shapes of `want`."""
    wanted = {path: tuple(leaf.shape) for path, leaf in flatten(want).items()}
    given = {path: tuple(leaf.shape) for path, leaf in flatten(got).items()}
    check_shapes(wanted, given, where=where)


def check_shapes(
    wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], *, where: str
) -> None:
    """Raise InputError unless `given` (from `where`) has the names and shapes of `wanted`.

    Of names that are missing, unexpected or mis-shaped it says the first five and how many more.
    """
    missing = [f"{name} {wanted[name]}" for name in sorted(wanted.keys() - given.keys())]
    more = sorted(given.keys() - wanted.keys())
    shapes = [
        f"{name} has shape {given[name]}, not {wanted[name]}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name] != wanted[name]
    ]
    problems = {"missing ": missing, "unexpected ": more, "": shapes}
    told = [what + listed(names) for what, names in problems.items() if names]
    if told:
        raise InputError(f"{where} does not fit the model: {'; '.join(told)}")


def digest(tree: Any) -> str:
    """SHA-256 (hex) of every leaf's path, dtype, shape and bytes: equal trees, equal digests."""
    total = hashlib.sha256()
    for path, leaf in sorted(flatten(tree).items()):
        array = np.asarray(leaf)
        total.update(f"{path} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()
