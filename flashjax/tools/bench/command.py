"""`bench`: speed and memory on this machine, as ratios measured in one run."""

import argparse
from pathlib import Path

from flashjax.tools.bench import convert, quantize, startup, steps
from flashjax.types import InputError

BENCHES = ("convert", "quantize", "startup", "steps")


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    verb.add_argument("what", choices=BENCHES)
    verb.add_argument("--workdir", metavar="DIR", help="`convert` and `startup` write there")
    verb.add_argument("--model", default="sd35_medium", help="a name of models/variants.py")
    verb.add_argument("--ggml", metavar="LIB", help="a ggml library to compare `quantize` with")
    verb.add_argument(
        "--config", metavar="FILE", help="of `startup`; whose `steps` run on random weights"
    )
    verb.add_argument("--programs", default="", help="a comma-separated choice of these steps")
    verb.add_argument("--profile", action="store_true", help="of `steps`: the longest operations")
    verb.add_argument("--chip", help="what this machine has, where its own name does not say it")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    """Runs one benchmark; it prints its figures."""
    if options.what == "steps":
        if not options.config:
            raise InputError("bench steps runs the steps of a config: give --config FILE")
        chosen = tuple(name for name in options.programs.split(",") if name)
        told = {"chip": options.chip, "profile": options.profile}
        steps.run(options.config, overrides, chosen, **told)
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
