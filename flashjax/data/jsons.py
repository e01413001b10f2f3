"""JSON and arrays that people bring: what was asked for, or a line that says what is wrong."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.types import InputError


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file. InputError if it is missing or something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a folder in diffusers' layout")
    content = _parsed(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def read_texts(path: Path) -> list[str]:
    """The list of texts in a JSON file. InputError for something else."""
    content = _parsed(path)
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        raise InputError(f"{path} holds no list of texts")
    return content


def read_array(path: Path) -> np.ndarray:
    """The array in a .npy file. InputError for one that is missing, cut short or something else."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)  # of no more than there is
    except (ValueError, EOFError, TypeError, FileNotFoundError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines() or ["it is no array"]
        raise InputError(f"{path} is broken, delete it: {reason[0]}") from error
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path} is broken, delete it: it is no array")
    return np.array(found)


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
