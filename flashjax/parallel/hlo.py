"""What a compiled program says: its collectives, how often each runs, which mesh axes it joins.

XLA's own cost analysis counts the body of a loop once; here every instruction carries the number of
times that it runs. Loops of unknown length (a roll-out to a drawn step) take the caller's mean.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from flashjax.parallel.mesh import slice_of

KINDS = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "s4": 1, "u4": 1, "f8e4m3fn": 1}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_NAMED = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\(" + _IOTA + r"\))? \{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO: `runs` is how often it runs in one call of the program."""

    name: str
    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # (dtype, dims) of all results
    line: str
    runs: float
    within: str  # the computation that it stands in

    @property
    def bytes(self) -> int:
        return sum(BYTES.get(dtype, 0) * math.prod(dims) for dtype, dims in self.shapes)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Equal collectives of a program: `bytes` is what one device receives in one call of it."""

    kind: str
    axes: tuple[str, ...]
    dtype: str
    runs: float
    bytes: float
    crosses_slices: bool


def instructions(text: str, *, unknown_trips: float = 1.0) -> list[Instruction]:
    """Every instruction that runs, with how often. Of the arms of a condition all are counted."""
    bodies, entry = _computations(text)
    found: list[Instruction] = []

    def walk(name: str, runs: float) -> None:
        for line in bodies.get(name, ()):
            match = _INSTRUCTION.match(line)
            if not match:
                continue
            shapes = tuple(
                (dtype, tuple(int(d) for d in dims.split(",") if d))
                for dtype, dims in _SHAPE.findall(match[2])
            )
            found.append(Instruction(match[1], match[3], shapes, line, runs, name))
            times = 1.0
            if match[3] == "while":
                trips = _trips(line, bodies)
                times = unknown_trips if trips is None else float(trips)
            for role, called in _CALLED.findall(line):
                if role != "to_apply" or match[3] == "call":
                    walk(called, runs * times)
            for arms in _BRANCHES.findall(line):
                for arm in arms.split(","):
                    walk(arm.strip().lstrip("%"), runs)

    walk(entry, 1.0)
    return found


def loops(text: str) -> Counter[str]:
    """How many loops have a known length, and how many have not."""
    bodies, _ = _computations(text)
    lines = [line for line in text.splitlines() if re.search(r" while\(", line)]
    return Counter("unknown" if _trips(line, bodies) is None else "known" for line in lines)


def collectives(
    text: str, mesh: Mesh, *, unknown_trips: float = 1.0, island: int = 0
) -> list[Collective]:
    """The collectives of a program compiled for `mesh`, summed by kind, axes and dtype.

    `island` is the number of devices that fast links join, where the devices do not know.
    """
    total: dict[tuple, list[float]] = {}
    slices = slice_of(mesh, island)
    for found in instructions(text, unknown_trips=unknown_trips):
        kind = found.kind.removesuffix("-start")
        if kind not in KINDS:
            continue
        groups = members(found.line, mesh.size)
        axes = axes_of(groups, mesh)
        # The TPU's compiler writes a reduce-scatter as an all-reduce and a slice, fused.
        scatter = found.within.startswith("all-reduce-scatter")
        dtype, received = _received(kind, found, len(groups[0]))
        kind, received = ("reduce-scatter", received / 2) if scatter else (kind, received)
        key = (kind, axes, dtype, _crosses(groups, slices))
        entry = total.setdefault(key, [0.0, 0.0])
        entry[0] += found.runs
        entry[1] += found.runs * received
    return [
        Collective(kind, axes, dtype, runs, size, crosses)
        for (kind, axes, dtype, crosses), (runs, size) in sorted(total.items())
    ]


def members(line: str, devices: int) -> list[list[int]]:
    """The groups of devices, by their place in the mesh, that a collective's line joins.

    XLA spells them as pairs, as lists, as a transposed count, or as axes of a mesh of its own.
    """
    if "replica_groups=mesh[" in line:
        return _named_groups(line, devices)
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=" + _IOTA, line)
    if iota:
        return _count(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2])).tolist()
    pairs = re.search(r"source_target_pairs=\{(.*?\})\}", line)
    found = pairs or re.search(r"replica_groups=\{(\{.*?\})\}", line)
    if found:
        return [[int(i) for i in one.split(",")] for one in re.findall(r"\{([\d,]+)\}", found[1])]
    if "replica_groups={}" in line or "replica_groups" not in line:
        return [list(range(devices))]  # it joins everything
    raise ValueError(f"groups of a collective in a spelling that is not known: {line[:300]}")


def _named_groups(line: str, devices: int) -> list[list[int]]:
    """`mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a','b':(1)2}`: groups along axes of a mesh."""
    match = _NAMED.search(line)
    if not match:
        raise ValueError(f"a mesh of a collective in a spelling that is not known: {line[:300]}")
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
    order = _count(match[2], match[3]) if match[2] else np.arange(devices)
    joined = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", match[4])
    }
    dims: list[int] = []
    along: list[int] = []
    for name, size in sizes.items():  # a part of an axis: what is before it, itself, what is after
        before, part = joined.get(name, (size, 1))
        along += [len(dims) + 1] * (name in joined)
        dims += [before, part, size // (before * part)]
    grid = order.reshape(dims)
    apart = [dim for dim in range(len(dims)) if dim not in along]
    return grid.transpose(apart + along).reshape(-1, math.prod(dims[d] for d in along)).tolist()


def _count(dims: str, order: str | None) -> np.ndarray:
    """0, 1, 2, … in an array of `dims`, its dims in another `order`."""
    shape = [int(size) for size in dims.split(",")]
    axes = [int(dim) for dim in order.split(",")] if order else range(len(shape))
    return np.arange(math.prod(shape)).reshape(shape).transpose(axes)


def axes_of(groups: Iterable[Sequence[int]], mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ."""
    shape = tuple(mesh.shape.values())
    differ = set()
    for group in groups:
        places = np.array(np.unravel_index(np.asarray(group), shape))
        differ |= set(np.flatnonzero((places != places[:, :1]).any(axis=1)).tolist())
    return tuple(axis for index, axis in enumerate(mesh.axis_names) if index in differ)


def kernels(text: str) -> Mapping[str, int]:
    """The hand-written kernels of a program (Pallas on TPU, cuDNN on GPU) by their target."""
    targets = re.findall(r'custom_call_target="([^"]+)"', text)
    return Counter(t for t in targets if t == "tpu_custom_call" or "cudnn" in t)


def _received(kind: str, found: Instruction, size: int) -> tuple[str, float]:
    """The dtype of a collective and the bytes that a ring algorithm brings to each device."""
    shapes = found.shapes
    if found.kind.endswith("-start") and kind in ("all-gather", "collective-permute"):
        shapes = (
            shapes[1:2] if len(shapes) < 4 or kind != "all-gather" else shapes[len(shapes) // 2 :]
        )
    whole = sum(BYTES.get(dtype, 0) * math.prod(dims) for dtype, dims in shapes)
    share = (size - 1) / size
    factor = {
        "all-reduce": 2 * share,
        "all-gather": share,
        "all-to-all": share,
        "reduce-scatter": float(size - 1),
        "collective-permute": 1.0,
    }[kind]
    return shapes[0][0], whole * factor


def _crosses(groups: Iterable[Sequence[int]], slices: Sequence[int]) -> bool:
    """Whether a group has members of several slices."""
    return any(len({slices[member] for member in group}) > 1 for group in groups)


def _trips(line: str, bodies: Mapping[str, Sequence[str]]) -> int | None:
    """How often a loop runs, where the compiler says so or its condition counts from 0 to N."""
    known = _TRIPS.search(line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    inside = "\n".join(bodies.get(condition[1], ())) if condition else ""
    compare = re.search(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT", inside)
    if not compare:
        return None
    bound = re.search(rf"%?{re.escape(compare[1])} = [su]32\[\]\S* constant\((\d+)\)", inside)
    return int(bound[1]) if bound else None


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by its name, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = bodies.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return bodies, entry
