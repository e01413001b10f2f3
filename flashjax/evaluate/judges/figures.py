"""What judges have in common: how an estimate becomes a figure, and what they say of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flashjax.evaluate.estimates import Estimate
from flashjax.evaluate.judge import Figure, Needs
from flashjax.evaluate.judges.features import Reference
from flashjax.types import InputError

INTERVALS = "After \N{PLUS-MINUS SIGN} stands half of a 95 % bootstrap interval over the pictures."


def figure(name: str, estimate: Estimate, **look: Any) -> Figure:
    """The figure of an estimate, with half of its bootstrap interval; one sample has none."""
    error = estimate.interval if len(estimate.influence) > 1 else None
    return Figure(name, estimate.value, error=error, **look)


def note(text: str, references: Iterable[Reference] = ()) -> str:
    """What a judge says of its figures, and with how many pictures it compares."""
    compared = " and ".join(reference.words for reference in references)
    return f"{text} {f'Compared with {compared}. ' if compared else ''}{INTERVALS}"


def check_folder(judge: str, needs: Needs, folder: Path) -> None:
    """InputError where a judge's weights are no folder with a config."""
    if not (folder / "config.json").is_file():
        raise InputError(f"the judge {judge} needs {needs.weights}; {folder} has no config.json")
