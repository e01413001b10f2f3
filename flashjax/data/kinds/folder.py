"""A folder: pictures with captions beside them or in a manifest, tars, or tables."""

import logging
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from flashjax.data.files import Address
from flashjax.data.kinds import builders, tables, tars
from flashjax.data.kinds.listed import Entry, Listed, Wording, captioned, first_of
from flashjax.data.kinds.manifest import open_manifest
from flashjax.data.pictures import SUFFIXES
from flashjax.data.samples import Samples
from flashjax.types import InputError

MANIFESTS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TRAIN, TEXT = "train", ".txt"

log = logging.getLogger(__name__)


def open_folder(folder: Address, wording: Wording) -> Samples:
    """What a folder holds: the first of these that is there.

    A manifest, a dataset of Hugging Face or tensorflow-datasets, pictures, tars, parquet files.
    InputError for none, and for parts of which none is the one to learn from.
    """
    if builders.is_built(folder):
        return builders.open_built(folder, "", wording)
    if folder.within(tables.SPLITS).is_file():
        return _open_saved(folder, wording)
    files = folder.below()
    for name in MANIFESTS:
        if name in files:
            return open_table(folder.within(name), wording)
    if tables.STATE in files:
        return tables.open_tables(str(folder), tables.saved_files(folder), wording)
    pictures = [name for name in files if _suffix(name) in SUFFIXES]
    if pictures:
        _refuse_nested(folder, files)
        return _open_pictures(folder, files, pictures, wording)
    for suffix in (".tar", ".parquet"):
        if names := [name for name in files if _suffix(name) == suffix]:
            chosen = [folder.within(name) for name in _one_part(folder, names)]
            opener = tars.open_tars if suffix == ".tar" else tables.open_tables
            return opener(str(folder), chosen, wording)
    raise InputError(f"{folder} holds no picture: give files of {', '.join(SUFFIXES)}")


def open_table(address: Address, wording: Wording) -> Listed:
    """A manifest of any kind."""
    if address.suffix in tables.SUFFIXES:
        return tables.open_tables(str(address), [address], wording)
    return open_manifest(address, wording)


def _open_pictures(
    folder: Address, files: Mapping[str, int], pictures: Sequence[str], wording: Wording
) -> Listed:
    texts = {posixpath.splitext(name)[0]: name for name in files if _suffix(name) == TEXT}
    captions = {name: texts.get(posixpath.splitext(name)[0], "") for name in pictures}
    _say_unused(folder, files, {*pictures, *captions.values()})
    entries = []
    for name, text in captions.items():
        read = text and not wording.unread
        words = " ".join(folder.within(text).read_text().split()) if read else ""
        file = folder.within(name)
        entries.append(Entry(name, (words,) if words else (), file.open, str(files[name])))
    return captioned(str(folder), entries, wording)


def _say_unused(folder: Address, files: Mapping[str, int], used: set[str]) -> None:
    unused = [name for name in files if name not in used]
    if unused:
        counts = Counter(_suffix(name) or "no suffix" for name in unused)
        log.warning(
            "%s: %d other files are left out (%s): %s",
            *(folder, len(unused), first_of(unused)),
            ", ".join(f"{count} of {suffix}" for suffix, count in counts.most_common(5)),
        )


def _refuse_nested(folder: Address, files: Mapping[str, int]) -> None:
    """InputError for folders that have manifests of their own: they are sources each."""
    nested = [name for name in files if posixpath.basename(name) in MANIFESTS]
    if nested:
        within = folder.within(posixpath.dirname(nested[0]))
        raise InputError(
            f"{folder} has manifests in its folders ({first_of(nested)}): give {within} as a source"
        )


def _open_saved(folder: Address, wording: Wording) -> Listed:
    """The part "train" of what `DatasetDict.save_to_disk` wrote, or the only one."""
    chosen = folder.within(_train_of(folder, tables.saved_splits(folder)))
    return tables.open_tables(str(chosen), tables.saved_files(chosen), wording)


def _one_part(folder: Address, names: Sequence[str]) -> list[str]:
    """The files of one part, as their names tell: "data/train-00000-of-00002.parquet"."""
    parts: dict[str, list[str]] = {}
    for name in names:
        part = re.sub(r"[-_./]?(\d+(-of-\d+)?)?\.\w+$", "", name)
        parts.setdefault(part, []).append(name)
    return parts[_train_of(folder, list(parts))]


def _train_of(folder: Address, parts: Sequence[str]) -> str:
    """The part to learn from: the only one, or the one that is called train."""
    found = [part for part in parts if posixpath.basename(part) == TRAIN]
    if len(parts) > 1 and len(found) != 1:
        raise InputError(
            f"{folder} has several parts ({first_of(parts, 8)}): give the one to learn from, as "
            f"{folder.within(parts[0])}… with its files"
        )
    chosen = found[0] if found else parts[0]
    if len(parts) > 1:
        others = first_of([part for part in parts if part != chosen])
        log.info("%s: %s is learnt from; %s is left out", folder, chosen, others)
    return chosen


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()
