"""The command line: `flashjax VERB --config FILE --workdir DIR [--config.a.b=v]`.

Tools need no config; `flashjax VERB --help` shows the flags of each.
"""

import argparse
import contextlib
import errno
import importlib
import logging
import os
import re
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.convert.mistaken import no_folder
from flashjax.data.remote.fetch import fetched
from flashjax.parallel import signals
from flashjax.parallel.absent import leave_out_tpus
from flashjax.parallel.hosts import initialise, is_first, keep_programs, leave, settle
from flashjax.parallel.mesh import simulate_devices
from flashjax.parallel.prepared import under_way
from flashjax.tools import front
from flashjax.tools.addresses import here
from flashjax.tools.verbs import JOBS, ROAD, VERBS
from flashjax.train.loop import Interrupted
from flashjax.types import InputError, nearest, one_line

TEXTS = ("--prompt", "--negative_prompt", "--title")  # flags whose values are no paths
DEFECT, WRONG_INPUT, INTERRUPTED = 1, 2, signals.INTERRUPTED
UNREAD = 128 + signal.SIGPIPE  # what a shell says of a program whose reader went away
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
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # of torch, which is not needed
    leave_out_tpus()
    code = DEFECT
    try:
        code = answer(arguments)
    finally:
        if code in (WRONG_INPUT, DEFECT) or (code and under_way()):
            leave(code)
    return code


def answer(arguments: Sequence[str]) -> int:
    """Runs the verb; what ends it in a way that a user can mend is said in one line."""
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _unread():
            raise
        return UNREAD
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


def _unread() -> bool:
    """Whether whoever read what is printed has gone; the rest goes nowhere then."""
    looked = select.poll()
    looked.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in looked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def check_encoding() -> None:
    """InputError where names and texts are not taken for UTF-8: all that we read and write is."""
    if (taken := sys.getfilesystemencoding()) != "utf-8":
        raise InputError(
            f"this shell's locale makes Python read names as {taken}: set PYTHONUTF8=1, or "
            f"LC_ALL=C.UTF-8"
        )


def check(config: ConfigDict, workdir: Path, stages: Sequence[str], *, estimate: bool) -> None:
    """InputError, with a line for each thing that is wrong with a run; else says what it takes."""
    preflight = _module("tools.preflight")
    if found := preflight.problems(config, workdir, stages):
        raise InputError(*found)
    if estimate and "import" in stages:
        logging.info("%s", preflight.estimate(config))


def run(arguments: Sequence[str]) -> int:
    """Runs the verb; returns the exit code of what a launcher started, or 0."""
    words, overrides = split_overrides(arguments)
    if told := front.said(words):
        print(told)
        return 0
    check_encoding()
    name, *flags = words
    if name not in VERBS:
        raise InputError(_unknown("verb", name, list(VERBS)))
    signals.name(f"flashjax {name}")
    verb, configured = VERBS[name], front.is_configured(flags)
    options = _parse(front.parser(name, configured=configured), flags)
    if verb.stage and (configured or not verb.tool):
        run_verb(name, options, overrides)
        return 0
    if told := no_folder(getattr(options, "workdir", None) or ""):
        raise InputError(f"--workdir {told}")
    if overrides and not verb.configured:
        raise InputError(f"--config.{overrides[0]} changes a config: give --config FILE too")
    more = [overrides] if verb.configured else []
    with here(options):
        return _module(verb.tool).run(options, *more) or 0


def run_verb(verb: str, options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs a verb of a config in its workdir, once all is checked that can be."""
    part = {"first": options.first, "last": options.last} if verb == "run" else {}
    stages = stages_of(verb, **part)
    sections = _module("tools.sections")
    config = sections.load(options.config, overrides)
    on_road = verb == "run" or verb in ROAD
    if profile := getattr(options, "profile", ""):
        with config.unlocked():
            for name in JOBS[verb]:
                config[name].job.profile = profile
    # The road is looked through as a whole, ranges too, and told all that is wrong at once.
    sections.check(config, verb, ranges=not on_road)
    simulate_devices(config.simulate_devices)
    if initialise(os.environ) and not is_first():
        logging.getLogger().setLevel(logging.WARNING)  # the first one speaks for all
    with _module("stages.mirror").opened(options.workdir, look=options.dry_run) as workdir:
        if on_road:
            looked_at = ROAD if options.dry_run and not part else stages
            check(config, workdir, looked_at, estimate=options.dry_run)
        _module("stages.run").check_before(config, workdir, verb)
        if options.dry_run:
            if options.fork:
                _module("stages.fork").check_fork(fetched(options.fork), config, workdir, verb)
            print(configs.to_json(config))
            return
        with _module("stages.refused").withdrawn_folders(workdir):
            if options.compilation_cache != "off":
                keep_programs(options.compilation_cache or workdir / "compiled")
            with forked(options.fork, config, workdir, verb):
                _module(VERBS[verb].stage).run(config, workdir, **part)


def forked(
    origin: str, config: ConfigDict, workdir: Path, verb: str
) -> contextlib.AbstractContextManager[None]:
    """The block in which a stage goes on from a checkpoint of another, where one is named."""
    if not origin:
        return contextlib.nullcontext()
    return _module("stages.fork").forked(fetched(origin), config, workdir, verb)


def stages_of(verb: str, first: str = "", last: str = "") -> list[str]:
    """The stages that a verb runs, `run` from the first to the last. InputError for none."""
    if not first:
        return [verb]
    begin, end = ROAD.index(first), ROAD.index(last)
    if begin > end:
        raise InputError(f"--from {first} comes after --to {last}: {', '.join(ROAD)}")
    return ROAD[begin : end + 1]


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


def _parse(found: front.Parser, flags: Sequence[str]) -> argparse.Namespace:
    """The flags; one that nobody knows is answered with the nearest."""
    known = set(re.findall(r"--\w+", found.format_help()))
    names = [flag.partition("=")[0] for flag in flags if flag.startswith("--")]
    for name in names:
        if name not in known:
            raise InputError(_unknown("flag", name, sorted(known)))
        if names.count(name) > 1 and name in found.lists:
            raise InputError(f"flag {name} is given twice: give it once, its values with commas")
    return found.parse_args(flags)


def _unknown(kind: str, word: str, known: Sequence[str]) -> str:
    if likely := nearest(word, known):
        return f"{kind} {word} is unknown; did you mean {likely}?"
    return f"{kind} {word} is unknown; choose of {', '.join(known)}"


def _at_home(word: str) -> str:
    """`--flag=~/path` with the home folder in it, which shells leave to us; texts stay."""
    flag, _, value = word.partition("=")
    if flag.startswith("--") and flag not in TEXTS and value.startswith("~"):
        return f"{flag}={os.path.expanduser(value)}"  # of no such user it stays
    return word


def _say(arguments: Sequence[str], message: str, code: int) -> int:
    """One line about what ended the verb; a log on a full disk takes none, and the code stays."""
    verb = "".join(f" {word}" for word in arguments[:1] if word in VERBS)
    with contextlib.suppress(OSError):
        print(f"flashjax{verb}: {one_line(message, LONGEST)}", file=sys.stderr, flush=True)
    return code


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"flashjax.{name}")


if __name__ == "__main__":
    sys.exit(main())
