"""What a stage is, and how it is merely carried out: which keys of its section may change.

A section's *identity* (data, method, losses, model, seed) makes its result: another identity is
another result. *Operation* (mesh, computation, intervals) may change whenever a stage starts again.
*Rates* may change while it is under way, as they do when training breaks; a finished stage has
been trained with those that it has.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashjax.parallel.hosts import all_say
from flashjax.stages.imports import sources
from flashjax.types import InputError, is_code, parts_of

OPERATION = re.compile(
    r"(.*\.)?("
    r"(mesh|compute)(\..*)?"
    r"|job\.(log_steps|checkpoint_steps|stall_seconds|keep|milestone_steps|most_skipped"
    r"|sample_steps|judge_steps|judged|best|histogram_steps|trackers|profile)"
    r"|probe_steps"  # that look at a gradient
    r"|parts"  # of a batch that is differentiated one after the other
    r"|chunk|draw\.batch_size"  # pictures at a time
    r")"
)
RATES = re.compile(r"(.*\.)?[a-z]*_?optimiser\..*")

Change = tuple[Any, Any]  # a value before, and now


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """What differs between two sections, by dotted key."""
    was, asked = leaves(before), leaves(now)
    return {
        key: (was.get(key), asked.get(key))
        for key in sorted(was.keys() | asked.keys())
        if was.get(key) != asked.get(key)
    }


def identity(section: Mapping[str, Any]) -> dict[str, Any]:
    """What of a section makes a finished stage, by dotted key."""
    return {key: v for key, v in leaves(section).items() if not OPERATION.fullmatch(key)}


def forbidden(found: Mapping[str, Change], *, done: bool) -> dict[str, Change]:
    """Those changes that make another stage of it."""
    return {
        key: change
        for key, change in found.items()
        if not OPERATION.fullmatch(key) and (done or not RATES.fullmatch(key))
    }


def check_agreed(asked: Mapping[str, Any]) -> None:
    """InputError where processes of one job ask for several stages, or see several inputs.

    Each would compile a program of its own, and what is saved would be of none of them.
    """
    inputs = {key: found["digest"] for key, found in asked["inputs"].items()}
    parts = {"config": f"{asked['seed']} {asked['config_digest']}", "inputs": f"{inputs}"}
    if other := [part for part, text in parts.items() if not all_say(text)]:
        raise InputError(
            f"{asked['stage']}: the processes of this job have not all the same "
            f"{' and '.join(other)}: start them with one command, on the same files"
        )


def told(found: Mapping[str, Change]) -> str:
    """Changes as a reader wants them: "a.b: 1 -> 2, c: ..."."""
    return ", ".join(f"{key}: {was} -> {now}" for key, (was, now) in found.items())


def code_named(section: Mapping[str, Any]) -> dict[str, Path]:
    """The files of somebody's own code that a section names, by its key: other code, other stage.

    What such a file imports of its own folder is noted, too, by the module's name beside the key.
    """
    named = {
        f"{key}={text}": text.partition(":")[0]
        for key, value in leaves(section).items()
        for listed in (value if isinstance(value, list | tuple) else [value])
        for text in (parts_of(listed) if isinstance(listed, str) else [])
        if is_code(text.partition("=")[0])  # a judge may have weights
    }
    return {
        key if name == module else f"{key}, {name}": path
        for key, module in named.items()
        for name, path in sources(module).items()
    }


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Values of nested dicts by dotted path."""
    if not isinstance(tree, dict):
        return {path: tree}
    prefix = f"{path}." if path else ""
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in leaves(value, f"{prefix}{key}").items()
    }
