"""`bench sample`: what a picture costs, of the guided teacher and of students with few steps.

Weights are random: a picture's time does not depend on them. Captions come encoded. The programs
are those of `flashjax sample`, once without and once with the decoder, and take turns.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flashjax import trees
from flashjax.convert.folder import read_configs
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.vae import abstract_vae
from flashjax.evaluate.sample import Sampler, frugal, make_sample, solving
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.models.flops import mmdit_flops
from flashjax.models.mmdit import MMDiT
from flashjax.models.parameters import as_bits
from flashjax.models.vae import VAEConfig
from flashjax.models.variants import MMDIT, SD3_TEXT, SD3_VAE
from flashjax.parallel.peak import device_peak, find_chip
from flashjax.stages.compute import DTYPES, Compute
from flashjax.stages.model import packaged
from flashjax.tools.bench import matched, measuring
from flashjax.tools.bench.matched import MATCH, SHIFT, Case
from flashjax.types import Params

TEACHER_STEPS, STUDENT_STEPS = 50, (4, 2, 1)
LATENTS, PICTURES = "transformer", "with decoder"  # what a program ends with


class Row(NamedTuple):
    """A sampler and how it is called in the table."""

    name: str
    sampler: Sampler


def run(
    size: str, *, config: str | None, overrides: list[str], rounds: int, chip: str | None
) -> dict[str, Any]:
    """Prints milliseconds a picture and how many times as fast as the teacher; returns them."""
    case = matched.case_of(size)
    measuring.check_rounds(rounds)
    compute = matched.compute_with(config, overrides)
    peak = find_chip(chip, "").flops if chip else device_peak()
    model = matched.transformer_of(case.sizes, compute)
    print(f"{case.name} on {jax.local_devices()[0].device_kind}, {compute.dtype}", flush=True)
    spent = measuring.take_turns(calls_of(case, compute, model), rounds)
    result = figures(case, spent, peak)
    print(table(result), flush=True)
    return result | {"dtype": compute.dtype, "rounds": rounds}


def samplers() -> list[Row]:
    """The teacher, guided, on the grid of its own sampler; students on theirs."""
    grid = tuple(sampler_sigmas(TEACHER_STEPS, SHIFT).tolist())
    teacher = Sampler(grid, guidance_scale=MATCH.guidance_scale)
    students = [
        Row(f"student {n}", Sampler(tuple(student_sigmas(n, SHIFT).tolist())))
        for n in STUDENT_STEPS
    ]
    return [Row(f"teacher {TEACHER_STEPS}", teacher), *students]


def decoder_of(case: Case) -> VAEConfig | None:
    """The decoder of a size that has a model's name."""
    if case.sizes not in MMDIT.values():
        return None
    return read_configs(packaged("nano"))["vae"] if case.sizes == MMDIT["nano"] else SD3_VAE


def calls_of(
    case: Case, compute: Compute, model: MMDiT
) -> dict[tuple[str, str], Callable[[], Any]]:
    """A call for each sampler and what it ends with; each draws a batch."""
    decoder = decoder_of(case)
    pipeline = Pipeline(
        transformer={},  # programs take weights as arguments
        transformer_config=model.config,
        vae={},
        vae_config=decoder or SD3_VAE,
        text={},
        text_config=SD3_TEXT,  # never asked: captions come encoded
        sample_size=case.side,
    )
    params = drawn_with(case, compute, decoder)
    batch, empty = matched.random_batch(case)
    options = frugal(pipeline.transformer_config)

    def calling(program: Any) -> Callable[[], Any]:
        drawn = (params, batch.tokens, empty, batch.latents)
        return lambda: jax.block_until_ready(program(*drawn))

    calls = {}
    for name, sampler in samplers():
        solved = jax.jit(solving(pipeline, sampler, model=model), compiler_options=options)
        calls[name, LATENTS] = calling(solved)
        if decoder:
            calls[name, PICTURES] = calling(make_sample(pipeline, sampler, model=model))
    return calls


def drawn_with(case: Case, compute: Compute, decoder: VAEConfig | None) -> Params:
    """Random weights as a pipeline that draws holds them."""

    @functools.partial(jax.jit, static_argnums=0)
    def made(dtype: jnp.dtype) -> Params:
        transformer = trees.cast(matched.random_params(case.sizes, 1), dtype)
        vae = matched.random_tree(abstract_vae(decoder), 2) if decoder else {}
        return {"transformer": transformer, "vae": vae}

    params = made(DTYPES[compute.dtype])
    return {"transformer": as_bits(params["transformer"]), "vae": params["vae"], "text": {}}


def figures(
    case: Case, spent: dict[tuple[str, str], measuring.Spent], peak: float | None
) -> dict[str, Any]:
    """A row for each sampler and what it ends with; `share` is of the transformer's operations."""
    image = (case.side // case.sizes.patch) ** 2
    forward = mmdit_flops(case.sizes, image=image, text=case.text)
    first, rows = samplers()[0].name, []
    passes = {name: sampler.passes for name, sampler in samplers()}
    for (name, end), took in spent.items():
        seconds = took.median / case.batch
        flops = passes[name] * forward
        rows.append(
            {
                "sampler": name,
                "ends_with": end,
                "passes": passes[name],
                "seconds_per_picture": seconds,
                "times_as_fast_as_teacher": spent[first, end].median / took.median,
                "flops_per_picture": flops,
                "share_of_peak": flops / seconds / peak if peak and end == LATENTS else None,
            }
        )
    return {"size": case.name, "batch": case.batch, "peak": peak, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Milliseconds a picture, ratio to the teacher, share of the peak."""
    head = ["sampler", "passes", "ends with", "ms a picture", "x teacher", "of the peak"]
    rows = []
    for row in result["rows"]:
        share = row["share_of_peak"]
        rows.append(
            [
                row["sampler"],
                str(row["passes"]),
                row["ends_with"],
                f"{1000 * row['seconds_per_picture']:.2f}",
                f"{row['times_as_fast_as_teacher']:.1f}",
                "" if share is None else f"{100 * share:.0f} %",
            ]
        )
    return measuring.table(head, rows)
