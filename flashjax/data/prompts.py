"""Prompt files: one prompt a line, read whole, or as a stream of which only a batch is in memory.

Letters: n prompts, m tokens.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from flashjax.types import InputError, Tokens


def read_prompts(path: Path | str) -> list[str]:
    """The non-empty lines of a file. InputError if there is none, or no file."""
    prompts = Prompts(path)
    return prompts.read(range(len(prompts)))


class Prompts:
    """The non-empty lines of a file, read as they are asked for: memory holds where they begin.

    InputError if there is none, no file, or a line that is no UTF-8.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        if not self._path.is_file():
            raise InputError(f"{path} does not exist: give a text file with one prompt a line")
        starts = list(self._scan())
        if not starts:
            raise InputError(f"{path} holds no prompt: write one a line")
        self._starts = np.array(starts)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, chosen: Iterable[int]) -> list[str]:
        """The prompts of these numbers."""
        with self._path.open("rb") as file:
            return [self._line(file, number) for number in chosen]

    def _scan(self) -> Iterator[int]:
        """Where the lines begin that are not empty."""
        place = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(f"{self._path}: line {number} is no UTF-8") from error
                if text.strip():
                    yield place
                place += len(line)

    def _line(self, file: IO[bytes], number: int) -> str:
        file.seek(self._starts[number])
        return file.readline().decode("utf-8").strip()


class TokenRows:
    """Ids "n m" of one text encoder, made of the prompts that are asked for."""

    def __init__(self, shape: tuple[int, int], encode: Callable[[tuple[int, ...]], np.ndarray]):
        self.shape, self._encode = shape, encode

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        return self._encode(tuple(chosen.tolist()))


def stream_tokens(prompts: Prompts, tokenizer: Callable[[list[str]], Tokens]) -> Tokens:
    """The tokens of all prompts as `TokenRows`: nothing is read or encoded before a batch is."""

    @functools.lru_cache(maxsize=64)  # the three encoders ask for the same rows
    def encoded(chosen: tuple[int, ...]) -> Tokens:
        return tokenizer(prompts.read(chosen))

    def rows(name: str) -> TokenRows:
        length = getattr(encoded((0,)), name).shape[1]
        return TokenRows((len(prompts), length), lambda chosen: getattr(encoded(chosen), name))

    columns: dict[str, Any] = {name: rows(name) for name in ("clip_l", "clip_g", "t5")}
    return Tokens(**columns)
