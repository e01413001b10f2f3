"""`plan`: compiles the actual steps for a machine that may not be here, and says what they cost."""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.convert.outputs import check_free, keep_record
from flashjax.convert.writing import replacing
from flashjax.data.jsons import read_json
from flashjax.parallel.chips import AS_OF, Chip
from flashjax.parallel.mesh import simulate_devices
from flashjax.parallel.program import Program, compile_program
from flashjax.parallel.target import SMALL_TILES, Target, open_devices, parse_target
from flashjax.stages.stage import write_json
from flashjax.tools import sections
from flashjax.tools.plan.programs import Planned, compute_of, programs
from flashjax.tools.plan.report import render, summary
from flashjax.types import InputError

CACHE = "~/.cache/flashjax/plan"


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    """Prints the plan of the config on the target."""
    config = sections.load(options.config, overrides)
    sections.check(config, "plan")
    target = parse_target(options.target, slices=options.slices)
    chip = priced(target.chip, options.price)
    if target.is_tpu:
        # The TPU's compiler is asked for by name; nothing here may look for a TPU of its own.
        jax.config.update("jax_platforms", "cpu")
    else:
        simulate_devices(target.devices)
    config, notes = as_planned(config, target)
    chosen = tuple(name for name in options.programs.split(",") if name)
    planned = programs(config, open_devices(target), chosen, islands=target.islands)
    check_whole(planned, target)
    if options.hlo:
        check_free([text_of(options.hlo, program) for program in planned], force=False)
    cache = Path(options.cache).expanduser()
    compiled = []
    small = SMALL_TILES if target.is_tpu and not options.large_tiles else {}
    for program in planned:
        key = cache_key(config, target, program.name, small)
        path = cache / f"{key}.json"
        compiled.append(compile_or_recall(program, path, options.hlo, small, target.island))
    record = {
        "config": options.config,
        "target": str(target),
        "chip": dataclasses.asdict(chip) | {"as_of": AS_OF},
        "versions": versions(),
        "compute": dataclasses.asdict(compute_of(config)),
        "notes": notes + [f"compiled with {name}={value}" for name, value in small.items()],
        "programs": [
            summary(p, c, chip, compute_of(config)) for p, c in zip(planned, compiled, strict=True)
        ],
    }
    print(json.dumps(record, indent=2) if options.json else render(record))


def priced(chip: Chip, price: float | None) -> Chip:
    """The chip at a price in dollars an hour, that of all devices it has; None leaves the table's.

    InputError for what is no price.
    """
    if price is None:
        return chip
    if not (math.isfinite(price) and price >= 0):
        raise InputError(f"--price {price:g}: give dollars per chip and hour, 0 or more")
    return dataclasses.replace(chip, price=price / chip.per_chip)


def check_whole(planned: Sequence[Planned], target: Target) -> None:
    """InputError where a program leaves chips of the target without work; a CPU's are free."""
    for program in planned:
        if program.mesh.size != target.devices and target.chip.name != "cpu":
            raise InputError(
                f"{program.name} has a mesh of {program.mesh.size} devices on {target}, which has "
                f"{target.devices}: let an axis of its mesh be -1"
            )


def as_planned(config: ConfigDict, target: Target) -> tuple[ConfigDict, list[str]]:
    """The config as it can be compiled here, and what that changes about the figures."""
    if target.is_tpu:
        return config, []
    notes = [
        f"{target} is simulated: layouts, collectives and operations are the partitioner's, but "
        "memory is a CPU program's"
    ]
    attention = compute_of(config).attention
    if attention != "xla":
        config = config.copy_and_resolve_references()
        config.compute.attention = "xla"
        notes.append(
            f"attention={attention} is not in this program: XLA's own keeps every score in memory"
        )
    return config, notes


def compile_or_recall(
    planned: Planned, path: Path, hlo: str | None, options: Mapping[str, str], island: int
) -> Program:
    """The program's record, from the cache if it is there; HLO text is written when compiled."""
    if path.is_file() and hlo is None:
        return configs.record(read_json(path), f"{path} is broken, delete it", Program)
    program, text = compile_program(
        planned.name,
        planned.step,
        planned.arguments,
        planned.mesh,
        trips=planned.trips,
        options=options,
        island=island,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dataclasses.asdict(program))
    if hlo is not None:
        with replacing(text_of(hlo, planned)) as new:
            new.write_text(text)
        keep_record(text_of(hlo, planned))
    return program


def text_of(folder: str, program: Planned) -> Path:
    """Where the HLO text of a program goes."""
    return Path(folder) / f"{program.name}.hlo"


def cache_key(config: Any, target: Target, program: str, options: Mapping[str, str]) -> str:
    """Equal keys, equal programs: the config, the machine, the versions and our own source."""
    source = hashlib.sha256()
    for path in sorted(Path(str(files("flashjax"))).rglob("*.py")):
        source.update(path.read_bytes())
    asked = [
        configs.to_json(config),
        str(target),
        program,
        dict(options),
        versions(),
        source.hexdigest(),
    ]
    asked.append(os.environ.get("XLA_FLAGS", "") + os.environ.get("LIBTPU_INIT_ARGS", ""))
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:20]


def versions() -> dict[str, str]:
    """The versions that decide what the compiler makes."""
    installed = {dist.name for dist in importlib.metadata.distributions()}
    names = ("jax", "jaxlib", "flax", "optax", "libtpu")
    return {name: importlib.metadata.version(name) for name in names if name in installed}
