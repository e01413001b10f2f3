"""Branches: copies of one job on disjoint parts of the mesh, in one program.

Every array of a branched tree has a leading branch dim, and lies on the mesh axis `branch`. Inside,
the step sees one branch without that dim, so its kernels are the un-branched ones, and its
collectives stay within the branch.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flashjax.parallel.hlo import collectives


def stack(trees: list[Any]) -> Any:
    """One tree per branch to one branched tree."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, mesh: Mesh) -> list[Any]:
    """A branched tree to one tree per branch, each laid out on every branch's devices as it was.

    One program for all leaves.
    """
    number = mesh.shape["branch"]

    def one_of(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*leaf.sharding.spec[1:]))

    split = jax.jit(
        lambda tree: [jax.tree.map(operator.itemgetter(index), tree) for index in range(number)],
        out_shardings=[jax.tree.map(one_of, tree)] * number,
    )
    return split(tree)


def branch_shardings(shardings: Any, mesh: Mesh) -> Any:
    """The shardings of one branch's arrays, with the branch dim in front."""
    return jax.tree.map(
        lambda sharding: NamedSharding(mesh, PartitionSpec("branch", *sharding.spec)), shardings
    )


def check_isolated(text: str, mesh: Mesh) -> None:
    """RuntimeError if a collective of a compiled program joins two branches.

    One that does makes the branches wait for each other at every step, and mixes their numbers.
    """
    crossing = [found for found in collectives(text, mesh) if "branch" in found.axes]
    if crossing:
        listed = "; ".join(f"{found.runs:g} {found.kind} over {found.axes}" for found in crossing)
        raise RuntimeError(f"the program of a step joins its branches: {listed}")


def over_branches(
    step: Callable[..., tuple[Any, Any]], mesh: Mesh, *, first: int = 0
) -> Callable[..., tuple[Any, Any]]:
    """`step(state, span, frozen, batch, key)` on every branch at once.

    `state` and `span` are branched; `frozen`, `batch` and `key` are shared, the key folded with the
    branch's number. Both results are branched. A job of its own for branch n has one branch and
    `first` = n: it computes what that branch would compute among the others.
    """

    def one(state: Any, span: Any, frozen: Any, batch: Any, key: Array) -> tuple[Any, Any]:
        state, span = jax.tree.map(lambda leaf: leaf[0], (state, span))
        key = jax.random.fold_in(key, first + jax.lax.axis_index("branch"))
        return jax.tree.map(lambda leaf: leaf[None], step(state, span, frozen, batch, key))

    branch, shared = PartitionSpec("branch"), PartitionSpec()
    return jax.shard_map(
        one,
        mesh=mesh,
        in_specs=(branch, branch, shared, shared, shared),
        out_specs=(branch, branch),
        axis_names={"branch"},
        check_vma=False,
    )
