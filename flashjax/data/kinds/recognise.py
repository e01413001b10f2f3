"""Which kind of data a source is."""

from flashjax.data.files import Address
from flashjax.data.kinds import builders, folder, manifest, own, tables, tars
from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.prompts import PromptSamples
from flashjax.data.patterns import expand, is_pattern
from flashjax.data.samples import Samples
from flashjax.types import InputError, is_code

KINDS = (
    "a folder of pictures with .txt captions or a metadata.jsonl, .csv or .parquet",
    "such a table itself",
    "webdataset tars (shards/{000..127}.tar)",
    "a dataset of Hugging Face on disk (save_to_disk, or parquet files)",
    "a dataset of tensorflow-datasets (tfds:NAME/CONFIG:SPLIT)",
    "a text file with one prompt a line",
    "package.module:name, a function of yours that gives Samples",
)
PROMPTS = ".txt"


def open_kind(source: str, wording: Wording, *, others: str = "") -> Samples:
    """The samples of a source. InputError for what is not there, or nothing that we know.

    `others` names what else could be given.
    """
    if source.startswith(builders.PREFIX):
        found = builders.open_named(source, wording)
        if found is None:
            raise builders.refuse_named(source)
        return found
    address = Address.of(source)
    if address.is_dir():
        return folder.open_folder(address, wording)
    if address.is_file():
        return _open_file(address, wording, others)
    if tars.is_tars(source):
        return tars.open_tars(source, expand(source), wording)
    if is_pattern(source) and source.endswith(tables.SUFFIXES):
        return tables.open_tables(source, expand(source), wording)
    if found := builders.open_named(source, wording):
        return found
    if is_code(source):
        return own.open_own(source)
    state = "does not exist" if address.local else "does not exist, or may not be read"
    raise _unknown(source, state, others)


def _open_file(address: Address, wording: Wording, others: str) -> Samples:
    if address.suffix in (*manifest.SUFFIXES, *tables.SUFFIXES):
        return folder.open_table(address, wording)
    if address.suffix == tars.SUFFIX:
        return tars.open_tars(str(address), [address], wording)
    if address.suffix == PROMPTS:
        return PromptSamples(address)
    raise _unknown(str(address), "is none of what can be read", others)


def _unknown(source: str, state: str, others: str) -> InputError:
    known = "; ".join([*KINDS, others] if others else KINDS)
    return InputError(f"{source} {state}: give {known}")
