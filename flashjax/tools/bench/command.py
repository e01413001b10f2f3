"""`bench`: speed and memory on this machine, as ratios measured in one run."""

import argparse
from pathlib import Path

from flashjax.tools.bench import convert, quantize, startup, steps, versus
from flashjax.types import InputError


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    """Runs one benchmark; it prints its figures."""
    if options.what == "steps":
        if not options.config:
            raise InputError("bench steps runs the steps of a config: give --config FILE")
        chosen = tuple(name for name in options.programs.split(",") if name)
        told = {"chip": options.chip, "profile": options.profile}
        steps.run(options.config, overrides, chosen, **told)
    elif options.what == "torch":
        versus.run(
            options.size,
            config=options.config,
            overrides=overrides,
            sides=options.sides,
            parts=options.parts,
            rounds=options.rounds,
            checkpointing=options.checkpointing,
            chip=options.chip,
            out=options.json,
        )
    elif options.what == "startup":
        if not (options.config and options.workdir):
            raise InputError("bench startup starts a run: give --config FILE and --workdir DIR")
        startup.run(options.config, overrides, Path(options.workdir))
    elif options.what == "quantize":
        quantize.run(options.model, ggml=options.ggml)
    elif not options.workdir:
        raise InputError("bench convert writes 15 GB: say where with --workdir DIR")
    else:
        convert.run(options.model, Path(options.workdir))
