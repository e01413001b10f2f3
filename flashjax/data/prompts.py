"""Prompt files: one prompt a line."""

from pathlib import Path

from flashjax.types import InputError


def read_prompts(path: Path | str) -> list[str]:
    """The non-empty lines of a file. InputError if there is none, or no file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a text file with one prompt a line")
    prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise InputError(f"{path} holds no prompt: write one a line")
    return prompts
