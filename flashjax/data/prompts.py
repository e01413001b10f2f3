"""Prompt files: one prompt a line, read whole, or as a stream of which only a batch is in memory.

Letters: n prompts, m tokens.
"""

import codecs
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from flashjax.data.files import Address
from flashjax.types import InputError, Tokens, check_text

LONGEST = 10_000  # characters: the 512 tokens that T5 takes at most end before
_OTHERS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}  # and UTF-32's begin so


def read_prompts(path: Path | str) -> list[str]:
    """The non-empty lines of a file. InputError if there is none, or no file."""
    prompts = Prompts(path)
    return prompts.read(range(len(prompts)))


def shortened(prompt: str) -> str:
    """A prompt without what no tokenizer would come to: megabytes cost it minutes.

    InputError for what is no text in UTF-8.
    """
    check_text(prompt, "the prompt")
    return prompt.strip()[:LONGEST]


class Prompts:
    """The non-empty lines of a file, read as they are asked for: memory holds where they begin.

    A mark of UTF-8 at its begin and the ends of lines of any system are no part of a prompt.
    InputError if there is no prompt, no file, or a line that is no text in UTF-8.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Address.of(path)
        if not self._path.is_file():
            raise InputError(f"{path} does not exist: give a text file with one prompt a line")
        starts = list(self._scan())
        if not starts:
            raise InputError(f"{path} holds no prompt: write one a line")
        self._starts = np.array(starts)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, chosen: Iterable[int]) -> list[str]:
        """The prompts of these numbers, each `shortened`."""
        with self._path.open() as file:
            return [self._line(file, number) for number in chosen]

    def _scan(self) -> Iterator[int]:
        """Where the lines begin that are not empty."""
        with self._path.open() as file:
            begin = file.read(len(codecs.BOM_UTF8))
            if found := _OTHERS.get(begin[:2]):
                raise InputError(f"{self._path} is {found}: save it as UTF-8")
            place = len(begin) if begin == codecs.BOM_UTF8 else 0
            file.seek(place)
            for number, line in enumerate(file, start=1):
                for part in line.splitlines(keepends=True):
                    if self._text(part, number).strip():
                        yield place
                    place += len(part)

    def _text(self, line: bytes, number: int) -> str:
        if b"\0" in line:
            raise InputError(f"{self._path}: line {number} holds a zero byte: save it as UTF-8")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self._path}: line {number} is no UTF-8: save it as UTF-8"
            ) from error

    def _line(self, file: IO[bytes], number: int) -> str:
        file.seek(self._starts[number])
        line = file.readline().splitlines()[0]
        return shortened(line.decode("utf-8"))


class TokenRows:
    """Ids "n m" of one text encoder, made of the prompts that are asked for."""

    dtype = np.dtype(np.int32)

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
