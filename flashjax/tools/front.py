"""What is said at once, without JAX: the version, all verbs, the flags of one.

A parser answers what it does not understand in one line; flags are written in full.
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

import flashjax
from flashjax.tools import flags
from flashjax.tools.verbs import VERBS, overview

HELP = ("-h", "--help")


class Parser(argparse.ArgumentParser):
    """Answers what it does not understand in one line; flags are written in full."""

    def __init__(self, **settings) -> None:
        super().__init__(allow_abbrev=False, formatter_class=Formatter, **settings)

    @property
    def lists(self) -> set[str]:
        """Flags of values with commas: one that is given twice is not what the last one says."""
        several = [action for action in self._actions if "," in str(action.metavar)]
        return {name for action in several for name in action.option_strings}

    def error(self, message: str) -> NoReturn:
        from flashjax.types import InputError  # brings JAX, which no help waits for

        raise InputError(f"{message}; {self.prog} --help lists all flags")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Says the default of every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.required or action.default in (None, False, "", [], argparse.SUPPRESS)
        return text if silent else f"{text} (default: %(default)s)"


def said(words: Sequence[str]) -> str | None:
    """What is to be printed where nothing else is asked for, or None."""
    if words[:1] == ["--version"]:
        return f"flashjax {flashjax.__version__}"
    if not words or words[0] in HELP:
        return overview()
    verb, *rest = words
    if verb in VERBS and set(rest) & set(HELP):
        return parser(verb, configured=is_configured(rest)).format_help().rstrip()
    return None


def is_configured(words: Sequence[str]) -> bool:
    """Whether a verb is given a config."""
    return any(word == "--config" or word.startswith("--config=") for word in words)


def parser(name: str, *, configured: bool) -> Parser:
    """The flags of a verb; one that is a stage and a tool is the stage where it is configured."""
    verb = VERBS[name]
    as_stage = bool(verb.stage) and (configured or not verb.tool)
    more = verb.more
    if verb.stage and verb.tool:
        other = "without" if as_stage else "with"
        more += f"\n`flashjax {name} {'' if as_stage else '--config FILE '}--help` has the flags "
        more += f"{other} a config."
    example = f"flashjax {name} --config nano --workdir runs/nano" if as_stage else verb.example
    if verb.configured or as_stage:
        example += "\n\n--config.a.b=v changes a value of the config"
    found = Parser(
        prog=f"flashjax {name}",
        description=f"{verb.about}\n{more}",
        epilog=f"example:\n  {example}",
    )
    if as_stage:
        flags.stage(found, name)
    else:
        flags.FLAGS[name](found)
    return found
