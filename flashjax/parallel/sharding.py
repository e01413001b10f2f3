"""Where arrays live: a table of rules for parameters, another for activations.

A rule for parameters is (regex, PartitionSpec); the first regex that matches the whole "a/b/c" path
decides. Activations are constrained by the names of their dims, each name mapped to mesh axes.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from flashjax import trees
from flashjax.types import Constrain, InputError

Axes: TypeAlias = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Rules:
    """The layout of one role: regex -> spec for parameters, name -> mesh axes for activations."""

    params: tuple[tuple[str, PartitionSpec], ...]
    activations: Mapping[str, Axes]


def param_shardings(abstract: Any, rules: Rules, mesh: Mesh) -> Any:
    """The sharding of every parameter. InputError lists all leaves without a rule that fits."""
    return _shardings(abstract, rules, mesh, prefix="")


def state_shardings(abstract: Any, rules: Rules, mesh: Mesh) -> Any:
    """The same for a whole training state: scalars are replicated, a rule may match the path's end.

    Optimisers repeat the tree of parameters: "opt/0/mu/blocks/kernel" follows the rule of
    "blocks/kernel".
    """
    return _shardings(abstract, rules, mesh, prefix="(?:.*/)?")


def constrain_on(mesh: Mesh, rules: Rules) -> Constrain:
    """`constrain(x, "batch", "tokens", None)` on this mesh: one name or None for every dim of x.

    Inside a shard_map over some axes (`axis_names={"branch"}`) those axes are already taken and
    drop out. KeyError for a name without a rule, ValueError for a wrong number of names.
    """

    def constrain(x: jax.Array, *names: str | None) -> jax.Array:
        if len(names) != x.ndim:
            raise ValueError(f"{len(names)} names {names} for an array of shape {x.shape}")
        here = mesh_here(mesh)
        spec = activation_spec(rules, here, names)
        return jax.lax.with_sharding_constraint(x, NamedSharding(here, spec))

    return constrain


def mesh_here(mesh: Mesh) -> Mesh | AbstractMesh:
    """The mesh to lay out on: inside shard_map only the context's knows which axes are manual."""
    context = jax.sharding.get_abstract_mesh()
    return mesh if context.empty else context


def activation_spec(
    rules: Rules, mesh: Mesh | AbstractMesh, names: Sequence[str | None]
) -> PartitionSpec:
    """The spec of an activation's named dims; KeyError for a name without a rule."""

    def axes_of(name: str | None) -> Axes:
        if name is None:
            return None
        if name not in rules.activations:
            known = ", ".join(sorted(rules.activations))
            raise KeyError(f"no layout rule for activation dim {name!r}; known: {known}")
        return rules.activations[name]

    free = free_axes(mesh)
    return PartitionSpec(
        *(tuple(axis for axis in _as_tuple(axes_of(name)) if axis in free) for name in names)
    )


def free_axes(mesh: Mesh | AbstractMesh) -> set[str]:
    """The axes that no surrounding shard_map has taken."""
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {axis for axis, kind in types if kind != AxisType.Manual}


def _as_tuple(axes: Axes) -> tuple[str, ...]:
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, str) else axes


def _shardings(abstract: Any, rules: Rules, mesh: Mesh, *, prefix: str) -> Any:
    problems: list[str] = []
    specs = []
    for path, leaf in trees.flatten(abstract).items():
        spec = PartitionSpec() if prefix and not leaf.shape else _find(path, rules, prefix)
        if spec is None:
            problems.append(f"{path} {leaf.shape} has no rule")
            spec = PartitionSpec()
        problem = _misfit(leaf.shape, spec, mesh)
        if problem:
            problems.append(f"{path} {leaf.shape} {problem}")
        specs.append(NamedSharding(mesh, spec))
    if problems:
        raise InputError(f"layout does not fit: {trees.in_one_line(problems)}")
    return jax.tree.unflatten(jax.tree.structure(abstract), specs)


def _find(path: str, rules: Rules, prefix: str) -> PartitionSpec | None:
    for pattern, spec in rules.params:
        if re.fullmatch(f"{prefix}(?:{pattern})", path):
            return spec
    return None


def _misfit(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> str | None:
    """Why `spec` cannot lay out `shape`, or None."""
    if len(spec) > len(shape):
        return f"has fewer dims than {spec}"
    for size, axes in zip(shape, spec, strict=False):
        parts = math.prod(mesh.shape[axis] for axis in _as_tuple(axes))
        if size % parts:
            return f"is not divisible: {size} over {axes} = {parts}"
    return None
