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
from flashjax.types import InputError

Axes: TypeAlias = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Rules:
    """The layout of one role: regex -> spec for parameters, name -> mesh axes for activations."""

    params: tuple[tuple[str, PartitionSpec], ...]
    activations: Mapping[str, Axes]

    def without(self, axis: str) -> "Rules":
        """The same layout with the parameters whole along a mesh axis."""

        def left(axes: Axes) -> Axes:
            return tuple(one for one in _as_tuple(axes) if one != axis) or None

        params = tuple((name, PartitionSpec(*map(left, spec))) for name, spec in self.params)
        return dataclasses.replace(self, params=params)


def join_roles(roles: Mapping[str, Rules], activations: Mapping[str, Axes]) -> Rules:
    """The rules of a state that holds a network per role: "student/opt/mu/…" follows "student"."""
    return Rules(
        params=tuple(
            (rf"{role}/(?:.*/)?(?:{pattern})", spec)
            for role, rules in roles.items()
            for pattern, spec in rules.params
        ),
        activations=activations,
    )


def param_shardings(abstract: Any, rules: Rules, mesh: Mesh) -> Any:
    """The sharding of every parameter. InputError lists all leaves without a rule that fits."""
    return _shardings(abstract, rules, mesh, prefix="")


def state_shardings(abstract: Any, rules: Rules, mesh: Mesh) -> Any:
    """The same for a whole training state: scalars are replicated, a rule may match the path's end.

    Optimisers repeat the tree of parameters: "opt/0/mu/blocks/kernel" follows the rule of
    "blocks/kernel".
    """
    return _shardings(abstract, rules, mesh, prefix="(?:.*/)?")


def abstract_on(abstract: Any, shardings: Any) -> Any:
    """Shapes with shardings, to restore a state into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def check_split(
    abstract: Any, shardings: Any, mesh: Mesh, *, tolerance: float, floor: int = 0
) -> None:
    """InputError, with the arrays, if more than `tolerance` of the bytes lies on all devices.

    What `fsdp` and `tensor` could split and do not is paid for on every chip. Less than `floor`
    bytes are not worth a rule. All arrays that are whole are listed, the largest first.
    """
    if mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return
    sizes = {
        path: (leaf.size * leaf.dtype.itemsize, sharding.is_fully_replicated)
        for (path, leaf), sharding in zip(
            trees.flatten(abstract).items(), jax.tree.leaves(shardings), strict=True
        )
    }
    total = sum(size for size, _ in sizes.values())
    whole = {path: size for path, (size, replicated) in sizes.items() if replicated}
    kept = sum(whole.values())
    share = kept / max(1, total)
    if share > tolerance and kept > floor:
        largest = sorted(whole.items(), key=lambda item: -item[1])
        listed = "; ".join(f"{path} {size} bytes" for path, size in largest)
        raise InputError(
            f"{100 * share:.1f} % of the bytes are not split, above {100 * tolerance:.1f} %: "
            f"give rules to {listed}"
        )


def layout_table(abstract: Any, shardings: Any) -> str:
    """The layout as text, a line for every array: path, dtype, shape, the axes of its dims."""

    def line(path: str, leaf: Any, sharding: NamedSharding) -> str:
        spec = [*sharding.spec, *(None,) * (len(leaf.shape) - len(sharding.spec))]
        dims = (
            f"{size}:{'+'.join(_as_tuple(axes))}" if axes else str(size)
            for size, axes in zip(leaf.shape, spec, strict=True)
        )
        return f"{path} {leaf.dtype} {' '.join(dims)}".rstrip()

    leaves = trees.flatten(abstract).items()
    pairs = zip(leaves, jax.tree.leaves(shardings), strict=True)
    return "\n".join(line(path, leaf, sharding) for (path, leaf), sharding in pairs) + "\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Constraint:
    """`constrain(x, "batch", "tokens", None)` on a mesh: one name or None for every dim of x.

    Inside a shard_map over some axes (`axis_names={"branch"}`) those axes are already taken and
    drop out. KeyError for a name without a rule, ValueError for a wrong number of names.
    """

    mesh: Mesh
    rules: Rules

    @property
    def rows(self) -> bool:
        """On CPUs that do not split tokens: types.Constrain says why."""
        axes = _as_tuple(self.rules.activations.get("tokens"))
        split = math.prod(self.mesh.shape[axis] for axis in axes)
        return split == 1 and self.mesh.devices.flat[0].platform == "cpu"

    def __call__(self, x: jax.Array, *names: str | None) -> jax.Array:
        if len(names) != x.ndim:
            raise ValueError(f"{len(names)} names {names} for an array of shape {x.shape}")
        here = mesh_here(self.mesh)
        spec = activation_spec(self.rules, here, names)
        return jax.lax.with_sharding_constraint(x, NamedSharding(here, spec))


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
            spec = PartitionSpec()
        specs.append(NamedSharding(mesh, spec))
    if problems:
        raise InputError(f"layout does not fit: {'; '.join(problems)}")
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
    used = [axis for axes in spec for axis in _as_tuple(axes)]
    twice = sorted({axis for axis in used if used.count(axis) > 1})
    if twice:
        return f"has two dims on {', '.join(twice)} in {spec}"
    for size, axes in zip(shape, spec, strict=False):
        parts = math.prod(mesh.shape[axis] for axis in _as_tuple(axes))
        if size % parts:
            return f"is not divisible: {size} over {axes} = {parts}"
    return None
