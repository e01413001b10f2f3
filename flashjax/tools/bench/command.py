"""`bench`: speed and memory on this machine, as ratios measured in one run."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashjax.tools import front
from flashjax.tools.bench import (
    attention,
    checkpoint,
    compiling,
    convert,
    inputs,
    measuring,
    quantize,
    sample,
    startup,
    steps,
    versus,
)
from flashjax.types import InputError

Figures = dict[str, Any]


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    """Runs one benchmark; it prints its figures, and `--json` keeps them, too."""
    measuring.check_file(options.json)
    figures = BENCHES[options.what](options, overrides)
    if options.json:
        measuring.write_figures(options.json, options.what, told(options, overrides), figures)


def told(options: argparse.Namespace, overrides: list[str]) -> str:
    """The command that asks for the same: what is as by default is left out."""
    flags = front.parser("bench", configured=bool(options.config))
    words = ["flashjax", "bench", options.what]
    for name, value in vars(options).items():
        if name != "what" and value != flags.get_default(name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join([*words, *(f"--config.{override}" for override in overrides)])


def names_in(text: str) -> tuple[str, ...]:
    """The comma-separated names of a flag."""
    return tuple(name for name in text.split(",") if name)


def _attention(options: argparse.Namespace, overrides: list[str]) -> Figures:
    given = {"config": options.config, "overrides": overrides, "rounds": options.rounds}
    return attention.run(options.size, **given)


def _checkpoint(options: argparse.Namespace, overrides: list[str]) -> Figures:
    return checkpoint.run(options.size, workdir=options.workdir, rounds=options.rounds)


def _compile(options: argparse.Namespace, overrides: list[str]) -> Figures:
    if not options.config:
        raise InputError("bench compile compiles the programs of a config: give --config FILE")
    return compiling.run(options.config, overrides, names_in(options.programs))


def _convert(options: argparse.Namespace, overrides: list[str]) -> Figures:
    if not options.workdir:
        raise InputError("bench convert writes 15 GB: say where with --workdir DIR")
    return convert.run(options.model, Path(options.workdir))


def _input(options: argparse.Namespace, overrides: list[str]) -> Figures:
    return inputs.run(
        options.size,
        config=options.config,
        overrides=overrides,
        workdir=options.workdir,
        rounds=options.rounds,
        step_seconds=options.step_seconds,
    )


def _quantize(options: argparse.Namespace, overrides: list[str]) -> Figures:
    return quantize.run(options.model, ggml=options.ggml)


def _sample(options: argparse.Namespace, overrides: list[str]) -> Figures:
    given = {"config": options.config, "overrides": overrides, "rounds": options.rounds}
    return sample.run(options.size, chip=options.chip, **given)


def _startup(options: argparse.Namespace, overrides: list[str]) -> Figures:
    if not (options.config and options.workdir):
        raise InputError("bench startup starts a run: give --config FILE and --workdir DIR")
    return startup.run(options.config, overrides, Path(options.workdir))


def _steps(options: argparse.Namespace, overrides: list[str]) -> Figures:
    if not options.config:
        raise InputError("bench steps runs the steps of a config: give --config FILE")
    told = {"chip": options.chip, "profile": options.profile}
    return steps.run(options.config, overrides, names_in(options.programs), **told)


def _torch(options: argparse.Namespace, overrides: list[str]) -> Figures:
    return versus.run(
        options.size,
        config=options.config,
        overrides=overrides,
        sides=options.sides,
        parts=options.parts,
        rounds=options.rounds,
        checkpointing=options.checkpointing,
        chip=options.chip,
    )


BENCHES: dict[str, Callable[[argparse.Namespace, list[str]], Figures]] = {
    "attention": _attention,
    "checkpoint": _checkpoint,
    "compile": _compile,
    "convert": _convert,
    "input": _input,
    "quantize": _quantize,
    "sample": _sample,
    "startup": _startup,
    "steps": _steps,
    "torch": _torch,
}
