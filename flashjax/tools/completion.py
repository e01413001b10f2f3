"""`completion`: a script that has a shell complete verbs and flags."""

import argparse
import importlib.util

from flashjax.tools.front import parser
from flashjax.tools.verbs import VERBS
from flashjax.types import InputError


def run(options: argparse.Namespace) -> None:
    """Prints the script. InputError where shtab, which writes it, is not installed."""
    if importlib.util.find_spec("shtab") is None:
        raise InputError("shtab writes the script: pip install 'flashjax[completion]'")
    import shtab

    print(shtab.complete(parsers(), shell=options.shell))


def parsers() -> argparse.ArgumentParser:
    """All verbs and their flags as one parser; of a verb with two kinds of flags, the stage's."""
    root = argparse.ArgumentParser(prog="flashjax")
    verbs = root.add_subparsers(dest="verb")
    for name, verb in VERBS.items():
        parents = [parser(name, configured=configured) for configured in (False, True)]
        kinds = parents if verb.stage and verb.tool else parents[:1]
        verbs.add_parser(
            name, help=verb.about, parents=kinds, add_help=False, conflict_handler="resolve"
        )
    return root
