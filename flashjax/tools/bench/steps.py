"""`bench steps`: the steps that `plan` compiles, run on this machine with random weights.

Needs no checkpoint and no data. Prints measured seconds and memory, each beside what the plan of
this chip says, so that a plan for a pod can be trusted or corrected.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax import trees
from flashjax.parallel.chips import Chip
from flashjax.parallel.mesh import simulate_devices
from flashjax.parallel.peak import find_chip
from flashjax.parallel.program import read_program
from flashjax.parallel.units import counted, sized
from flashjax.stages.compute import Compute, compute_of
from flashjax.tools import sections
from flashjax.tools.bench import operations
from flashjax.tools.plan.programs import Planned, programs
from flashjax.tools.plan.report import summary
from flashjax.types import InputError

RUNNABLE = ("guide", "student", "critic")  # a branch's steps are the student's and the critic's
STEPS = 8  # measured, after one that is not
SPREAD = 0.02  # of random weights, uniform on both sides of zero


def run(
    path: str,
    overrides: list[str],
    names: tuple[str, ...],
    *,
    chip: str | None,
    profile: bool = False,
) -> dict[str, Any]:
    """Prints and returns seconds a step, MFU and memory of `names`, or of all that run alone."""
    unknown = set(names) - set(RUNNABLE)
    if unknown:
        raise InputError(f"--programs {','.join(unknown)}: bench steps runs {', '.join(RUNNABLE)}")
    config = sections.load(path, overrides)
    sections.check(config, "bench")
    simulate_devices(config.simulate_devices)
    device = jax.devices()[0]
    found = find_chip(chip, device.device_kind)
    print(f"{jax.device_count()} x {device.device_kind}, taken for {found.name}; {path}")
    compute, student_steps = compute_of(config), config.student.steps
    rows = [
        measure(planned, found, compute, student_steps, profile=profile)
        for planned in programs(config, jax.devices(), names or RUNNABLE)
    ]
    result = {"config": path, "chip": found.name, "rows": rows}
    return result | iteration(rows, config.match.critic_updates)


def iteration(rows: list[dict[str, Any]], critics: int) -> dict[str, float]:
    """Seconds of an outer iteration, the student's step and `critics` of the critic's, if run."""
    means = {row["program"]: float(np.mean(row["seconds"])) for row in rows}
    if not {"student", "critic"} <= set(means):
        return {}
    seconds = means["student"] + critics * means["critic"]
    print(f"iteration: the student's step and {critics} of the critic's: {seconds:.3f} s")
    return {"iteration_seconds": seconds}


def measure(
    planned: Planned, chip: Chip, compute: Compute, student_steps: int, *, profile: bool = False
) -> dict[str, Any]:
    """Compiles and runs one program; prints its figures, and its longest operations if asked.

    Returns the figures.
    """
    started = time.perf_counter()
    compiled = planned.step.lower(*planned.arguments).compile()
    compile_seconds = time.perf_counter() - started
    arguments = random_arguments(planned.arguments, student_steps)
    seconds, metrics, state = run_steps(compiled, arguments)
    text = compiled.as_text()
    program = read_program(planned.name, compiled, text, planned.mesh, trips=planned.trips)
    plan = summary(planned, program, chip, compute)
    mean = float(np.mean(seconds))
    lost = sorted(name for name, value in metrics.items() if not np.isfinite(value).all())
    fused = text.count("__cudnn$fmha")
    print(
        f"{planned.name}: {planned.samples} samples, {mean:.3f} s a step ({min(seconds):.3f} to "
        f"{max(seconds):.3f} in {len(seconds)}), compiled in {compile_seconds:.0f} s\n"
        f"  model    {counted(plan['model_flops_per_device'], 'FLOP')} a device: MFU "
        f"{100 * plan['model_flops_per_device'] / chip.flops / mean:.1f} %; with recomputation "
        f"{100 * plan['executed_flops_per_device'] / chip.flops / mean:.1f} % of the peak; "
        f"{mean / plan['step_seconds']:.2f} of the plan's {plan['step_seconds']:.3f} s\n"
        f"  memory   {peak_text(plan['need_bytes'])}\n"
        f"  kernels  {fused} calls of cuDNN's attention; metrics "
        f"{'not finite: ' + ', '.join(lost) if lost else 'finite'}",
        flush=True,
    )
    if profile:
        print(operations.table(operations.traced(lambda: compiled(state, *arguments[1:]))))
    return {
        "program": planned.name,
        "samples": planned.samples,
        "seconds": seconds,
        "planned_seconds": plan["step_seconds"],
        "compile_seconds": compile_seconds,
        "model_flops_per_device": plan["model_flops_per_device"],
        "executed_flops_per_device": plan["executed_flops_per_device"],
        "mfu": plan["model_flops_per_device"] / chip.flops / mean,
        "planned_bytes": plan["need_bytes"],
        "peak_bytes": device_peak_bytes(),
        "fused_attentions": fused,
        "not_finite": lost,
    }


def run_steps(compiled: Any, arguments: tuple[Any, ...]) -> tuple[list[float], dict[str, Any], Any]:
    """Seconds of each measured step, the last metrics and the last state."""
    state, *rest = arguments
    seconds: list[float] = []
    metrics: dict[str, Any] = {}
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        state, metrics = jax.block_until_ready(compiled(state, *rest))
        seconds.append(time.perf_counter() - started)
    return seconds[1:], jax.device_get(metrics), state


def random_arguments(abstract: tuple[Any, ...], student_steps: int) -> tuple[Any, ...]:
    """Arrays in the place of shapes: weights and pictures random, optimisers and counts zero."""

    def fill(path: str, leaf: Any) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if path.endswith("/span"):
            return jnp.broadcast_to(jnp.array([0, student_steps], leaf.dtype), leaf.shape)
        if "opt" in path.split("/") or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return scattered(leaf.shape).astype(leaf.dtype)

    flat, structure = jax.tree.flatten(abstract)
    paths = list(trees.flatten(abstract))
    make = jax.jit(
        lambda: [fill(path, leaf) for path, leaf in zip(paths, flat, strict=True)],
        out_shardings=[leaf.sharding for leaf in flat],
    )
    return jax.tree.unflatten(structure, make())


def scattered(shape: tuple[int, ...]) -> Array:
    """Numbers within SPREAD that look random and cost nothing to compile: a hashed count."""
    count = sum(
        jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(2654435761 + 2 * axis * 40503)
        for axis in range(len(shape))
    )
    mixed = jnp.asarray(count, jnp.uint32)
    mixed = (mixed ^ mixed >> 15) * np.uint32(2246822519)
    return ((mixed >> 8).astype(jnp.float32) / 2**23 - 1) * SPREAD


def peak_text(planned_bytes: float) -> str:
    """The device's own peak so far, if it keeps one, beside what the plan says is needed."""
    said = f"the program's own account {sized(planned_bytes)}"
    peak = device_peak_bytes()
    if peak is None:
        return f"{said}; this device keeps no count of its own"
    return f"{sized(peak)} at the peak of this process; {said}"


def device_peak_bytes() -> int | None:
    """The most memory that the first device has had; None where it keeps no count."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else None
