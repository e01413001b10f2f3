"""The command line: `flashjax VERB --config FILE --workdir DIR [--config.a.b=v]`.

Tools need no config; `flashjax VERB --help` shows the flags of each.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.parallel.hosts import initialise, is_first
from flashjax.parallel.mesh import simulate_devices
from flashjax.train.loop import Interrupted
from flashjax.types import InputError

VERBS = {  # verb: (module that runs it, what it does)
    "teach": ("stages.teach", "train a complete small teacher from data"),
    "slim": ("stages.slim", "a cheaper autoencoder for the same latents"),
    "run": ("stages.run", "all stages of a config, in order"),
    "import": ("stages.import_teacher", "the PyTorch teacher to sharded JAX parameters"),
    "prepare": ("stages.prepare", "pictures and captions to caches of latents and tokens"),
    "guide": ("stages.guide", "trajectory guidance: the student learns the teacher's long steps"),
    "match": (
        "stages.match",
        "distribution matching with timestep sharing and adversarial heads",
    ),
    "split": ("stages.split", "one branch per timestep range, on parallel sub-meshes"),
    "merge": ("stages.merge", "the branches to one student"),
    "export": ("stages.export", "to a diffusers folder and a single file"),
    "quantize": ("stages.quantize", "to GGUF files of 8 and 6 bits"),
    "evaluate": ("stages.evaluate", "draw, read and measure every sampler"),
    "report": ("stages.report", "one HTML file about the run"),
}

TOOLS = {  # the same for what works without a config; `export` and `quantize` are both
    "sample": ("tools.sample", "prompts to PNG files with any checkpoint"),
    "export": (
        "tools.export",
        "any checkpoint to PyTorch formats (or, with --config, the student)",
    ),
    "plan": (
        "tools.plan.command",
        "compile a config's steps for a machine, and say what they cost",
    ),
    "quantize": (
        "tools.quantize.command",
        "any checkpoint to 8 and 6 bits for deployment (or, with --config, the student)",
    ),
    "bench": ("tools.bench.command", "measure speed and memory on this machine"),
}
CONFIGURED = ("plan", "bench")  # tools that read a config

WRONG_INPUT, INTERRUPTED = 2, 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit code: 0 done, 2 wrong input, 75 interrupted and saved."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    overrides = [a.removeprefix("--config.") for a in arguments if a.startswith("--config.")]
    rest = [a for a in arguments if not a.startswith("--config.")]
    tool = rest[:1] and rest[0] in TOOLS and (rest[0] in CONFIGURED or "--config" not in rest)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for library in ("absl", "jax"):
        logging.getLogger(library).setLevel(logging.WARNING)
    options = (tool_parser(rest[0]) if tool else parser()).parse_args(rest)
    try:
        if tool:
            more = [overrides] if options.verb in CONFIGURED else []
            _module(TOOLS[options.verb][0]).run(options, *more)
            return 0
        config = configs.load(options.config, overrides)
        simulate_devices(config.simulate_devices)
        if initialise(os.environ) and not is_first():
            logging.getLogger().setLevel(logging.WARNING)  # the first one speaks for all
        if (options.dry_run or options.verb == "run") and "guide" in config:
            check(config, Path(options.workdir), estimate=options.dry_run)
        if options.dry_run:
            print(configs.to_json(config))
            return 0
        _module(VERBS[options.verb][0]).run(config, Path(options.workdir))
    except InputError as error:
        for line in str(error).splitlines():
            print(f"flashjax {options.verb}: {line}", file=sys.stderr)
        return WRONG_INPUT
    except Interrupted as error:
        print(f"flashjax {options.verb}: {error}", file=sys.stderr)
        return INTERRUPTED
    return 0


def check(config: ConfigDict, workdir: Path, *, estimate: bool) -> None:
    """InputError, a line for each thing that is wrong with a run; else says what it will take."""
    preflight = _module("tools.preflight")
    if found := preflight.problems(config, workdir):
        raise InputError("\n".join(found))
    if estimate:
        logging.info("%s", preflight.estimate(config))


def parser() -> argparse.ArgumentParser:
    """The verbs of a config and the flags that they share; the tools are listed."""
    top = argparse.ArgumentParser(prog="flashjax", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    for name, (_, text) in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("--config", required=True, metavar="FILE", help="a configs/*.py file")
        verb.add_argument("--workdir", required=True, metavar="DIR", help="where results go")
        verb.add_argument("--dry_run", action="store_true", help="check it all, print the config")
    for name in TOOLS.keys() - VERBS.keys():
        verbs.add_parser(name, help=TOOLS[name][1])
    return top


def tool_parser(name: str) -> argparse.ArgumentParser:
    """The flags of one tool."""
    top = argparse.ArgumentParser(prog="flashjax")
    verbs = top.add_subparsers(dest="verb", required=True)
    module, text = TOOLS[name]
    _module(module).add_arguments(verbs.add_parser(name, help=text, description=text))
    return top


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"flashjax.{name}")


if __name__ == "__main__":
    sys.exit(main())
