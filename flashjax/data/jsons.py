"""JSON files that people bring: an object, or one line that says what is wrong."""

import json
from pathlib import Path
from typing import Any

from flashjax.types import InputError


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file. InputError if it is missing or something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a folder in diffusers' layout")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content
