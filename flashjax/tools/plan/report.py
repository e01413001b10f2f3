"""A plan's figures: what fits, what bounds the step, how long the run takes, and as text."""

from collections.abc import Mapping
from typing import Any

import jax

from flashjax import trees
from flashjax.parallel.chips import Chip
from flashjax.parallel.program import Program
from flashjax.parallel.units import counted, sized
from flashjax.stages.compute import Compute
from flashjax.tools.plan.programs import Planned, device_bytes
from flashjax.train.flops import recomputed

HEADROOM = 0.95  # share of a chip's memory that a program may take: the rest is the runtime's


def summary(planned: Planned, program: Program, chip: Chip, compute: Compute) -> dict[str, Any]:
    """Everything that a plan says of one program, as JSON; bytes and times are per device."""
    roles = role_bytes(planned)
    kept = {"parameters": 0, "optimiser": 0, "averages": 0}
    for role, size in roles.items():
        kind = {"opt": "optimiser", "ema": "averages"}.get(role.split("/")[-1], "parameters")
        kept[kind] += size if role != "batch" else 0
    held = program.argument_bytes + program.output_bytes + planned.resident
    need = held + program.temporary_bytes + program.code_bytes
    fits = not program.error and need <= HEADROOM * chip.hbm_bytes
    times = roofline(planned, program, chip, compute)
    model = sum(planned.flops.values())
    seconds = max(times.values()) if not program.error else None
    devices = planned.mesh.size
    per_chip = model * planned.samples * planned.branches / devices
    return {
        "name": planned.name,
        "mesh": dict(planned.mesh.shape),
        "samples": planned.samples,
        "error": program.error,
        "compile_seconds": program.compile_seconds,
        "bytes_by_role": roles,
        "parameter_bytes": kept["parameters"],
        "optimiser_bytes": kept["optimiser"],
        "average_bytes": kept["averages"],
        "resident_bytes": planned.resident,
        "temporary_bytes": program.temporary_bytes,
        "need_bytes": need,
        "have_bytes": chip.hbm_bytes,
        "fits": fits,
        "advice": "" if fits else advice(kept, program, planned),
        "model_flops_per_sample": planned.flops,
        "model_flops_per_device": per_chip,
        "executed_flops_per_device": executed(planned, compute),
        "compiled_flops": program.compiled_flops,
        "compiled_bytes": program.compiled_bytes,
        "loops": dict(program.loops),
        "roll_out_steps": planned.trips,
        "kernels": dict(program.kernels),
        "collectives": [
            {"kind": c.kind, "axes": c.axes, "dtype": c.dtype, "runs": c.runs, "bytes": c.bytes}
            | {"network": "DCN" if c.crosses_slices else "ICI"}
            for c in program.collectives
        ],
        "ici_bytes": _moved(program, crossing=False),
        "dcn_bytes": _moved(program, crossing=True),
        "seconds_by_bound": times,
        "step_seconds": seconds,
        "mfu": per_chip / chip.flops / seconds if seconds else None,
        "calls": planned.calls,
        "hours": seconds * planned.calls / 3600 if seconds else None,
        "cost": seconds * planned.calls / 3600 * devices * chip.price if seconds else None,
        "checkpoint_bytes": checkpoint_bytes(planned),
    }


def role_bytes(planned: Planned) -> dict[str, int]:
    """Bytes per device of every network and of what is kept of it: "student/opt", "teacher"."""
    total: dict[str, int] = {}
    arguments = planned.arguments
    if planned.name == "text":  # its first argument is one network, others hold theirs by name
        arguments = ({"text": arguments[0]}, *arguments[1:])
    kinds = ("params", "opt", "ema")
    for path, leaf in trees.flatten(arguments).items():
        parts = path.split("/")[1:]
        if parts and parts[0] in ("learner", "student", "fake", "heads") and len(parts) > 1:
            network = "student" if parts[0] == "learner" else parts[0]
            role = f"{network}/{parts[1]}" if parts[1] in kinds else f"{network} (frozen)"
        elif parts and parts[0] in ("teacher", "text"):
            role = f"{parts[0]} (frozen)"
        else:
            role = "batch"
        total[role] = total.get(role, 0) + device_bytes(leaf)
    return total


def checkpoint_bytes(planned: Planned) -> int:
    """Bytes of the whole state that the step carries, over all devices; frozen parts are not in."""
    state = planned.arguments[0] if planned.name != "text" else {}
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def executed(planned: Planned, compute: Compute) -> float:
    """Operations of one device, with what the backward pass computes again."""
    flops = planned.flops
    again = recomputed(flops, planned.forward, remat=compute.remat, fake_remat=compute.fake_remat)
    total = sum(flops.values()) + again
    return total * planned.samples * planned.branches / planned.mesh.size


def roofline(planned: Planned, program: Program, chip: Chip, compute: Compute) -> dict[str, float]:
    """Seconds that each resource needs at its peak; the longest is a lower bound of the step."""
    return {
        "compute": executed(planned, compute) / chip.flops,
        "memory": max(program.compiled_bytes, program.argument_bytes) / chip.hbm_bandwidth,
        "ici": _moved(program, crossing=False) / chip.ici_bandwidth,
        "dcn": _moved(program, crossing=True) / chip.dcn_bandwidth,
    }


def advice(kept: Mapping[str, int], program: Program, planned: Planned) -> str:
    """What to change where a program does not fit."""
    state = sum(kept.values())
    if program.error or program.temporary_bytes > state:
        per_group = planned.samples / (planned.mesh.shape["data"] * planned.mesh.shape["fsdp"])
        smaller = "a smaller batch_size, or " if per_group > 1 else ""
        return f"activations are the larger part: {smaller}compute.remat=block, or context > 1"
    return (
        "the state is the larger part: raise mesh.fsdp, or store the teacher in bfloat16 and split "
        "(compute.teacher_whole=False)"
    )


def _moved(program: Program, *, crossing: bool) -> float:
    return sum(c.bytes for c in program.collectives if c.crosses_slices == crossing)


def render(record: Mapping[str, Any]) -> str:
    """The plan as text."""
    chip, versions = record["chip"], record["versions"]
    peak = counted(chip["flops"], "FLOP/s")
    lines = [
        f"plan of {record['config']} for {record['target']}",
        "  " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"  {chip['name']} ({chip['as_of']}, {chip['source']}): {peak}, "
        f"{sized(chip['hbm_bytes'])} at {counted(chip['hbm_bandwidth'], 'B/s')}, "
        f"ICI {counted(chip['ici_bandwidth'], 'B/s')}, "
        f"DCN {counted(chip['dcn_bandwidth'], 'B/s')}, "
        f"{chip['price']:.2f} $/h",
        "  " + ", ".join(f"{k}={v}" for k, v in record["compute"].items() if v != ""),
        *(f"  note: {note}" for note in record["notes"]),
    ]
    for program in record["programs"]:
        lines += ["", *_program(program)]
    done = [p for p in record["programs"] if p["hours"] is not None]
    if done:
        hours, cost = (sum(p[key] for p in done) for key in ("hours", "cost"))
        lines += [
            "",
            f"run   {hours:.1f} h at least, {cost:,.0f} $ at least, for all {len(done)} programs; "
            f"largest checkpoint {sized(max(p['checkpoint_bytes'] for p in done))}",
            "Times are the roofline's lower bounds: what a perfect machine would need.",
        ]
    return "\n".join(lines)


def _program(p: Mapping[str, Any]) -> list[str]:
    """The lines of one program."""
    mesh = " ".join(f"{axis}={size}" for axis, size in p["mesh"].items() if size > 1) or "1 device"
    seconds = f"compiled in {p['compile_seconds']:.0f} CPU s"
    lines = [f"{p['name']}  mesh {mesh}, {p['samples']} samples, {seconds}"]
    if p["error"]:
        return [*lines, f"  does NOT fit: {p['error']}", f"  change: {p['advice']}"]
    roles = ", ".join(f"{r} {sized(b)}" for r, b in p["bytes_by_role"].items() if b > 2**20)
    loops = ", ".join(f"{count} {kind}" for kind, count in p["loops"].items())
    work = {n: counted(x, "FLOP") for n, x in p["model_flops_per_sample"].items() if x}
    flops = " + ".join(f"{name} {told}" for name, told in work.items())
    times = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in p["seconds_by_bound"].items())
    lines += [
        f"  memory   {sized(p['need_bytes'])} of {sized(p['have_bytes'])}: "
        f"parameters {sized(p['parameter_bytes'])}, optimiser {sized(p['optimiser_bytes'])}, "
        f"averages {sized(p['average_bytes'])}, temporary {sized(p['temporary_bytes'])}, "
        f"resident beside {sized(p['resident_bytes'])}",
        f"           {'fits' if p['fits'] else 'does NOT fit; change: ' + p['advice']}",
        f"  roles    {roles}",
        f"  model    {flops} a sample; "
        f"{counted(p['model_flops_per_device'], 'FLOP')} a device, "
        f"{counted(p['executed_flops_per_device'], 'FLOP')} with recomputation",
        f"  compiled {counted(p['compiled_flops'], 'FLOP')}, {sized(p['compiled_bytes'])} by "
        f"XLA's count, which takes a loop's body once; loops: {loops or 'none'} "
        f"(unknown ones taken {p['roll_out_steps']} times)",
        f"  kernels  {', '.join(f'{n}x {k}' for k, n in p['kernels'].items()) or 'none'}",
    ]
    for c in p["collectives"]:
        lines.append(
            f"  {c['kind']:<18} {'+'.join(c['axes']) or '-':<14} {c['dtype']:<5} {c['network']} "
            f"{c['runs']:>7.1f} times {sized(c['bytes']):>11}"
        )
    lines += [
        f"  moved    {sized(p['ici_bytes'])} over ICI, {sized(p['dcn_bytes'])} over DCN",
        f"  roofline {times}: step {p['step_seconds']:.3f} s at least, "
        f"MFU {100 * p['mfu']:.0f} % at most; {p['calls']} calls, {p['hours']:.2f} h, "
        f"{p['cost']:,.0f} $",
    ]
    return lines
