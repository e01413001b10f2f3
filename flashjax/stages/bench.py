"""`bench`: speed and memory on this machine, as ratios measured in one run."""

import argparse
import importlib
from pathlib import Path

BENCHES = {"convert": "bench_convert", "quantize": "bench_quantize"}


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    verb.add_argument("what", choices=tuple(BENCHES))
    verb.add_argument("--workdir", required=True, metavar="DIR", help="scratch files go there")
    verb.add_argument("--model", default="sd35_medium", help="a name of models/variants.py")
    verb.add_argument("--ggml", metavar="LIB", help="a ggml library to compare `quantize` with")


def run(options: argparse.Namespace) -> None:
    """Runs one benchmark; it prints its figures."""
    bench = importlib.import_module(f"flashjax.stages.{BENCHES[options.what]}")
    peers = {"ggml": options.ggml} if options.what == "quantize" else {}
    bench.run(options.model, Path(options.workdir), **peers)
