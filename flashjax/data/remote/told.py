"""Standard output that calls what lies elsewhere by its address."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


class _Calling:
    def __init__(self, path: str, address: str) -> None:
        self._out, self._path, self._address = sys.stdout, path, address

    def write(self, text: str) -> int:
        return self._out.write(text.replace(self._path, self._address))

    def flush(self) -> None:
        self._out.flush()


@contextlib.contextmanager
def calling(path: Path, address: str) -> Iterator[None]:
    """What is printed within the block calls the copy at `path` by its address."""
    with contextlib.redirect_stdout(_Calling(str(path), address)):
        yield
