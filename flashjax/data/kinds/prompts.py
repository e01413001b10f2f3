"""A file of prompts as samples: captions without pictures."""

import csv
import hashlib
from pathlib import Path

from flashjax.data.kinds.manifest import CAPTIONS
from flashjax.data.prompts import Prompts
from flashjax.data.samples import Sample
from flashjax.types import InputError


class PromptSamples:
    """The lines of a text file."""

    def __init__(self, path: Path) -> None:
        self.name, self._prompts = str(path), Prompts(path)
        _refuse_table(path, self._prompts.read([0])[0])
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int, /) -> Sample:
        return Sample(None, self._prompts.read([index])[0])

    def size(self, index: int, /) -> None:
        """There is no picture."""


def _refuse_table(path: Path, first: str) -> None:
    """InputError for a table that is taken for prompts: its header would be the first of them."""
    header = [cell.strip().lower() for cell in next(csv.reader([first]), [])]
    if len(header) > 1 and any(name in header for name in CAPTIONS):
        raise InputError(
            f"{path} begins with the header of a table ({first[:60]}): a file of prompts has one "
            f"a line, a table of pictures is named .csv"
        )
