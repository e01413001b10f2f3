"""A file of prompts as samples: captions without pictures."""

import csv
import hashlib
import re

from flashjax.data.files import Address
from flashjax.data.kinds.listed import CAPTIONS
from flashjax.data.prompts import Prompts
from flashjax.data.samples import Sample
from flashjax.types import InputError


class PromptSamples:
    """The lines of a text file."""

    def __init__(self, file: Address) -> None:
        self.name, self._prompts = str(file), Prompts(str(file))
        _refuse_table(self.name, self._prompts.read([0])[0])
        with file.open() as content:
            self.digest = hashlib.file_digest(content, "sha256").hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int, /) -> Sample:
        return Sample(None, self._prompts.read([index])[0])

    def size(self, index: int, /) -> None:
        """There is no picture."""


def _refuse_table(name: str, first: str) -> None:
    """InputError for a table that is taken for prompts: its header would be the first of them."""
    for separator in ",\t;":
        header = [cell.strip().lower() for cell in next(csv.reader([first], delimiter=separator))]
        if any(cell in CAPTIONS for cell in header) and all(map(_is_column, header)):
            raise InputError(
                f"{name} begins with the header of a table ({first:.60}): a file of prompts has "
                f"one a line and no header; a table of pictures is named .csv"
            )


def _is_column(cell: str) -> bool:
    return re.fullmatch(r"\w+", cell) is not None
