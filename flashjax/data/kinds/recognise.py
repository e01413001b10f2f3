"""Which kind of data a source is."""

from pathlib import Path

from flashjax.data.kinds.folder import open_folder
from flashjax.data.kinds.manifest import SUFFIXES as TABLES
from flashjax.data.kinds.manifest import open_manifest
from flashjax.data.kinds.prompts import PromptSamples
from flashjax.data.kinds.tars import is_tars, open_tars
from flashjax.data.samples import Samples
from flashjax.types import InputError

KINDS = (
    "a folder of pictures with .txt captions or a metadata.jsonl, .csv or .parquet",
    "such a table itself",
    "webdataset tars (shards/{000..127}.tar)",
    "a text file with one prompt a line",
)


def open_kind(source: str, *, empty: str, others: str = "") -> Samples:
    """The samples of a source. InputError for what is not there, or nothing that we know.

    `empty` stands for a caption that is missing; `others` names what else could be given.
    """
    path = Path(source)
    if is_tars(source):
        return open_tars(source, empty)
    if path.is_dir():
        return open_folder(path, empty)
    if path.is_file() and path.suffix in TABLES:
        return open_manifest(path, empty)
    if path.is_file() and path.suffix == ".txt":
        return PromptSamples(path)
    known = "; ".join([*KINDS, others] if others else KINDS)
    state = "is none of what can be read" if path.exists() else "does not exist"
    raise InputError(f"{source} {state}: give {known}")
