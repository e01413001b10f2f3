"""The command line: `flashjax VERB --config FILE --workdir DIR [--config.a.b=v]`.

Tools need no config; `flashjax VERB --help` shows the flags of each.
"""

import argparse
import contextlib
import difflib
import errno
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.convert.mistaken import no_folder
from flashjax.parallel import signals
from flashjax.parallel.hosts import initialise, is_first, keep_programs, leave, settle
from flashjax.parallel.mesh import simulate_devices
from flashjax.train.loop import Interrupted
from flashjax.types import InputError, one_line

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
    "evaluate": (
        "tools.evaluate",
        "any checkpoints side by side (or, with --config, the samplers of a run)",
    ),
    "explain": ("tools.explain", "the keys of a config: type, range, default, meaning"),
    "status": ("tools.status", "how far a run is: stages, steps, pace, saves, processes"),
    "verify": ("tools.verify", "read every byte that a workdir keeps, and say what has changed"),
    "chaos": (
        "tools.chaos.command",
        "kill, stop and damage a run again and again; it must end as an unbroken one",
    ),
    "bench": ("tools.bench.command", "measure speed and memory on this machine"),
}
JOBS = {"run": ("guide", "match", "split"), "guide": ("guide",), "match": ("match",)}
JOBS |= {"split": ("split",)}  # the sections of the jobs that a verb trains
ROAD = [*VERBS][[*VERBS].index("import") :]  # the stages of `run`
CONFIGURED = ("plan", "bench", "chaos")  # tools that read a config
HELP = "\n".join(
    [
        "flashjax VERB --config FILE --workdir DIR [--config.a.b=v] [--dry_run]",
        *(f"  {name:9} {text}" for name, (_, text) in VERBS.items()),
        "",
        "without a config; flashjax VERB --help lists the flags",
        *(f"  {name:9} {text}" for name, (_, text) in TOOLS.items()),
    ]
)

TEXTS = ("--prompt", "--negative_prompt", "--title")  # flags whose values are no paths
DEFECT, WRONG_INPUT, INTERRUPTED = 1, 2, signals.INTERRUPTED
DIVERGED = "what is saved is finite; with a lower learning rate the same command goes on from it"
LONGEST = 2000  # characters of a message: names in a file may be of any length
MENDABLE = {  # what a disk refuses, and what a user does about it
    errno.ENOSPC: "free some room, or choose another place",
    errno.EDQUOT: "free some room, or choose another place",
    errno.EFBIG: "choose a place that takes large files",
    errno.EROFS: "choose another place",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "choose another name",
    errno.ENOTDIR: "a part of this path is a file: choose another name",
    errno.EISDIR: "this is a folder: choose another name",
    errno.ENOTEMPTY: "choose another name",
    errno.ENOENT: "check the path",
    errno.ELOOP: "check its links",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.EIO: "check the disk",
    errno.ESTALE: "mount the disk again",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit code: 0 done, 2 wrong input, 75 interrupted and saved."""
    if arguments is None:
        signals.listen()  # where flashjax.__main__ has not done so before
    arguments = [*map(_at_home, sys.argv[1:] if arguments is None else arguments)]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for library in ("absl", "jax"):
        logging.getLogger(library).setLevel(logging.WARNING)
    code = DEFECT
    try:
        code = answer(arguments)
    finally:
        if code in (WRONG_INPUT, DEFECT):
            leave(code)
    return code


def answer(arguments: Sequence[str]) -> int:
    """Runs the verb; what ends it in a way that a user can mend is said in one line."""
    try:
        run(arguments)
    except InputError as error:
        settle()
        for line in error.args:
            _say(arguments, line, WRONG_INPUT)
        return WRONG_INPUT
    except Interrupted as error:
        return _say(arguments, str(error), INTERRUPTED)
    except FloatingPointError as error:
        return _say(arguments, f"{error}; {DIVERGED}", WRONG_INPUT)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
        return _say(arguments, f"{what}: {MENDABLE[error.errno]}", WRONG_INPUT)
    return 0


def check(config: ConfigDict, workdir: Path, *, begun: bool, estimate: bool) -> None:
    """InputError, with a line for each thing that is wrong with a run; else says what it takes."""
    preflight = _module("tools.preflight")
    if found := preflight.problems(config, workdir, begun=begun):
        raise InputError(*found)
    if estimate and not begun:
        logging.info("%s", preflight.estimate(config))


def run(arguments: Sequence[str]) -> None:
    """Reads the flags and runs the verb."""
    words, overrides = split_overrides(arguments)
    if not words:
        raise InputError("give a verb; flashjax --help lists them")
    verb, *flags = words
    if verb in ("-h", "--help"):
        print(HELP)
        return
    if verb not in VERBS | TOOLS:
        raise InputError(_unknown("verb", verb, [*VERBS, *TOOLS]))
    signals.name(f"flashjax {verb}")
    configured = any(flag == "--config" or flag.startswith("--config=") for flag in flags)
    if verb not in TOOLS or (verb in VERBS and configured):
        run_verb(verb, _parse(parser(verb), flags), overrides)
        return
    options = _parse(tool_parser(verb), flags)
    if overrides and verb not in CONFIGURED:
        raise InputError(f"--config.{overrides[0]} changes a config: give --config FILE too")
    more = [overrides] if verb in CONFIGURED else []
    _module(TOOLS[verb][0]).run(options, *more)


def run_verb(verb: str, options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs a verb of a config in its workdir."""
    if verb == "run" and ROAD.index(options.first) > ROAD.index(options.last):
        raise InputError(
            f"--from {options.first} comes after --to {options.last}: {', '.join(ROAD)}"
        )
    config = configs.load(options.config, overrides)
    if profile := getattr(options, "profile", ""):
        with config.unlocked():
            for name in JOBS[verb]:
                config[name].job.profile = profile
    # A whole run is looked through as a whole, ranges too, and told all that is wrong at once.
    whole = (options.dry_run or verb == "run") and verb not in ("teach", "slim")
    _module("tools.sections").check(config, verb, ranges=not whole)
    simulate_devices(config.simulate_devices)
    if initialise(os.environ) and not is_first():
        logging.getLogger().setLevel(logging.WARNING)  # the first one speaks for all
    if whole:
        begun = verb == "run" and options.first != ROAD[0]
        check(config, Path(options.workdir), begun=begun, estimate=options.dry_run)
    if options.dry_run:
        print(configs.to_json(config))
        return
    _module("stages.run").check_before(config, Path(options.workdir), verb)
    if options.fork:
        _module("stages.fork").fork(Path(options.fork), config, Path(options.workdir), verb)
    if options.compilation_cache != "off":
        keep_programs(options.compilation_cache or Path(options.workdir) / "compiled")
    part = {"first": options.first, "last": options.last} if verb == "run" else {}
    _module(VERBS[verb][0]).run(config, Path(options.workdir), **part)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other words, and "a.b=v" of every `--config.a.b=v` and `--config.a.b v`."""
    words, overrides = [], []
    left = iter(arguments)
    for word in left:
        if not word.startswith("--config."):
            words.append(word)
            continue
        override = word.removeprefix("--config.")
        if "=" not in override:
            value = next(left, "--")
            if value.startswith("--"):
                raise InputError(f"{word} has no value: write {word}=VALUE")
            override = f"{override}={value}"
        overrides.append(override)
    return words, overrides


class Parser(argparse.ArgumentParser):
    """Answers what it does not understand in one line; flags are written in full."""

    def __init__(self, **settings) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self.prog} --help lists all flags")


def parser(verb: str) -> Parser:
    """The flags that all verbs of a config share."""
    found = Parser(prog=f"flashjax {verb}", description=VERBS[verb][1])
    found.add_argument("--config", required=True, metavar="FILE", help="a configs/*.py file")
    found.add_argument("--workdir", required=True, metavar="DIR", help="where results go")
    found.add_argument("--dry_run", action="store_true", help="check it all, print the config")
    found.add_argument(
        "--fork", metavar="STAGE", help="begin with the checkpoint of another workdir's stage"
    )
    found.add_argument(
        "--compilation_cache",
        default="",
        metavar="DIR",
        help="what is compiled is kept here; off for nowhere; WORKDIR/compiled",
    )
    if verb in JOBS:
        found.add_argument(
            "--profile", default="", metavar="A:B", help="a trace of the steps A to B, for XProf"
        )
    if verb == "run":
        for flag, name, end in (("--from", "first", ROAD[0]), ("--to", "last", ROAD[-1])):
            found.add_argument(
                flag, dest=name, default=end, choices=ROAD, help=f"the {name} stage; {end}"
            )
    return found


def tool_parser(name: str) -> Parser:
    """The flags of one tool."""
    module, text = TOOLS[name]
    found = Parser(prog=f"flashjax {name}", description=text)
    _module(module).add_arguments(found)
    return found


def _parse(found: Parser, flags: Sequence[str]) -> argparse.Namespace:
    """The flags; one that nobody knows is answered with the nearest."""
    known = set(re.findall(r"--\w+", found.format_help()))
    for flag in flags:
        name = flag.partition("=")[0]
        if name.startswith("--") and name not in known:
            raise InputError(_unknown("flag", name, sorted(known)))
    options = found.parse_args(flags)
    for name in ("workdir", "out"):
        if told := no_folder(getattr(options, name, None) or ""):
            raise InputError(f"--{name} {told}")
    return options


def _unknown(kind: str, word: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(word, known, n=1)
    if nearest:
        return f"{kind} {word} is unknown; did you mean {nearest[0]}?"
    return f"{kind} {word} is unknown; choose of {', '.join(dict.fromkeys(known))}"


def _at_home(word: str) -> str:
    """`--flag=~/path` with the home folder in it, which shells leave to us; texts stay."""
    flag, _, value = word.partition("=")
    if flag.startswith("--") and flag not in TEXTS and value.startswith("~"):
        return f"{flag}={os.path.expanduser(value)}"  # of no such user it stays
    return word


def _say(arguments: Sequence[str], message: str, code: int) -> int:
    """One line about what ended the verb; a log on a full disk takes none, and the code stays."""
    verb = "".join(f" {word}" for word in arguments[:1] if word in VERBS | TOOLS)
    with contextlib.suppress(OSError):
        print(f"flashjax{verb}: {one_line(message, LONGEST)}", file=sys.stderr, flush=True)
    return code


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"flashjax.{name}")


if __name__ == "__main__":
    sys.exit(main())
