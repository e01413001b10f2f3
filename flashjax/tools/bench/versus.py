"""`bench torch`: the steps of matching beside the same maths in PyTorch, in one run.

The numbers of both are compared first, on the same weights; then the sides take turns, so that what
else the machine does meets all of them.
"""

import dataclasses
import statistics
import time
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from flashjax.convert.transformer import transformer_to
from flashjax.parallel.peak import device_peak, find_chip
from flashjax.stages.compute import Compute
from flashjax.tools.bench import matched, measuring
from flashjax.tools.bench.matched import CRITICS, PARTS, Case, Draws, Ours
from flashjax.tools.bench.torch_side import Theirs
from flashjax.types import InputError

SIDES = ("ours", "eager", "compiled", "blocks")
TOLERANCE = 1e-4  # relative, of the loss and of every gradient
SMALL = 1e-3  # of the whole gradient's norm: a smaller one is measured by this
ITERATION = "iteration"  # one step of the student and those of its critic


def run(
    size: str,
    *,
    config: str | None,
    overrides: list[str],
    sides: str,
    parts: str,
    rounds: int,
    checkpointing: bool,
    chip: str | None,
) -> dict[str, Any]:
    """Prints seconds, share of the peak and ratios of every part; returns them."""
    case = matched.case_of(size)
    compute = matched.compute_with(config, overrides)
    chosen = listed("sides", sides, SIDES), listed("parts", parts, PARTS)
    measuring.check_rounds(rounds)
    peak = find_chip(chip, "").flops if chip else device_peak()
    return compared(case, compute, *chosen, rounds, peak=peak, checkpointing=checkpointing)


def listed(flag: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The comma-separated names of a flag. InputError for one that is not known, or for none."""
    names = tuple(dict.fromkeys(name for name in text.split(",") if name))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"--{flag} {text or '(none)'}: choose of {', '.join(known)}")
    return names


def compared(
    case: Case,
    compute: Compute,
    sides: tuple[str, ...],
    parts: tuple[str, ...],
    rounds: int,
    *,
    peak: float | None,
    checkpointing: bool = False,
) -> dict[str, Any]:
    """All figures of one case; the table is printed."""
    kind = jax.local_devices()[0].device_kind
    print(f"{case.name} on {kind}, {compute.dtype}", flush=True)
    theirs = None
    if set(sides) - {"ours"}:
        theirs = Theirs(case, dtype=compute.dtype, checkpointing=checkpointing)
    errors = {}
    if theirs is not None and "ours" in sides:
        errors = agreement(part_of(case))
        told = ", ".join(f"{part} {error:.1e}" for part, error in errors.items())
        print(f"  loss and gradients in float32 differ by: {told}", flush=True)
    calls: dict[str, matched.Calls] = {}
    for side in sides:
        started = time.perf_counter()
        if side == "ours":
            calls[side] = Ours(case, compute).calls(parts)
        elif theirs is not None:
            calls[side] = theirs.calls(parts, *given(theirs, case), side)
        for call in calls[side].values():
            call()
        print(f"  {side}: ready after {time.perf_counter() - started:.0f} s", flush=True)
    turns = {(part, side): calls[side][part] for part in parts for side in sides}
    spent = measuring.take_turns(turns, rounds, warm=False)
    seconds, user = (
        {p: {s: getattr(spent[p, s], kind_of_time) for s in sides} for p in parts}
        for kind_of_time in ("wall", "user")
    )
    result = figures(case, seconds) | {"device": kind, "peak": peak, "errors": errors}
    result |= {"dtype": compute.dtype, "rounds": rounds, "remat": compute.remat}
    result["user"] = figures(case, user)["seconds"]
    print(table(result), flush=True)
    if kind == "cpu":
        print("  seconds of all cores together, without what the system does (pages of memory):")
        print(table(result | {"seconds": result["user"]}, shares=False), flush=True)
    return result


def given(theirs: Theirs, case: Case) -> tuple[dict[str, Draws], Any]:
    """The draws of both steps, the conditioning and the grid, as torch takes them."""
    key, shape = jax.random.key(0), case.latents
    drawn = {
        "student": matched.student_draws(key, shape),
        "critic": matched.critic_draws(key, shape),
    }
    draws = {part: Draws(*map(theirs.tensor, found)) for part, found in drawn.items()}
    batch, empty = matched.random_batch(case)
    cond = [theirs.tensor(x) for x in (batch.tokens.text, batch.tokens.pooled)]
    uncond = [
        theirs.tensor(jnp.broadcast_to(x, (case.batch, *x.shape[1:])))
        for x in (empty.text, empty.pooled)
    ]
    return draws, ((cond, uncond), matched.sigmas_of().tolist())


def part_of(case: Case) -> Case:
    """The same widths and tokens in few blocks and samples, with a block of every kind."""
    depth = min(case.sizes.depth, 3)
    sizes = dataclasses.replace(case.sizes, depth=depth, dual=min(case.sizes.dual, depth - 2))
    return dataclasses.replace(case, sizes=sizes, batch=min(case.batch, 2))


def agreement(case: Case) -> dict[str, float]:
    """The largest relative difference of loss and gradients of both steps, in float32.

    InputError beyond TOLERANCE: what is not the same maths is not compared.
    """
    with jax.default_matmul_precision("highest"):
        errors = {part: difference(case, part) for part in matched.DRAWN}
    for part, error in errors.items():
        if not error <= TOLERANCE:
            raise InputError(
                f"bench torch: the {part}'s gradients differ by {error:.1e} of theirs, more than "
                f"{TOLERANCE}: this version of torch or diffusers computes something else"
            )
    return errors


def difference(case: Case, part: str) -> float:
    """The largest relative difference of the loss and each gradient of one step."""
    ours, theirs = Ours(case, Compute()), Theirs(case, dtype="float32")
    loss, tree = ours.gradients(part, jax.random.key(0))
    state, teacher = ours.start()
    draws, ((cond, uncond), sigmas) = given(theirs, case)
    student, fake = (theirs.network(net.params) for net in (state.student, state.fake))
    if part == "student":
        teacher = theirs.network(teacher)
        said = theirs.student_loss(student, teacher, fake, draws[part], sigmas, (cond, uncond))
        their_loss, found = theirs.gradients(said, student)
    else:
        said = theirs.critic_loss(student, fake, draws[part], sigmas, cond)
        their_loss, found = theirs.gradients(said, fake)
    own = transformer_to(jax.device_get(tree), case.sizes, "diffusers")
    least = SMALL * np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in found.values()))
    errors = [
        np.linalg.norm(own[name] - x) / max(np.linalg.norm(x), least) for name, x in found.items()
    ]
    return float(np.max([*errors, abs(float(loss) - their_loss) / abs(their_loss)]))  # NaN stays


Measured: TypeAlias = dict[str, dict[str, list[float]]]  # by part and side


def figures(case: Case, seconds: Measured) -> dict[str, Any]:
    """Medians by part and side, the whole iteration, and FLOP."""
    medians = {
        part: {side: statistics.median(each) for side, each in by_side.items()}
        for part, by_side in seconds.items()
    }
    flops = {part: case.flops()[part] for part in medians}
    if {"student", "critic"} <= set(medians):
        both = medians["student"], medians["critic"]
        medians[ITERATION] = {side: both[0][side] + CRITICS * both[1][side] for side in both[0]}
        flops[ITERATION] = flops["student"] + CRITICS * flops["critic"]
    return {
        "size": case.name,
        "seconds": medians,
        "least": {p: {s: min(each) for s, each in by.items()} for p, by in seconds.items()},
        "flops": flops,
    }


def table(result: dict[str, Any], *, shares: bool = True) -> str:
    """Seconds and share of the peak of every side, and how many times ours the others take."""
    sides = list(next(iter(result["seconds"].values())))
    rows = []
    for part, by_side in result["seconds"].items():
        cells = []
        for seconds in by_side.values():
            ratio = seconds / (by_side.get("ours") or float("nan"))
            share = result["flops"][part] / (seconds or 1.0) / (result["peak"] or float("nan"))
            cells.append(
                f"{seconds:9.4f} s {f'{100 * share:4.0f} % ' if shares else ''}{ratio:5.2f} x"
            )
        rows.append([part, *cells])
    return measuring.table(["part", *sides], rows)
