"""A folder of pictures: captions in .txt files beside them, or in a manifest."""

from pathlib import Path

from flashjax.data.kinds.listed import Entry, Listed, captioned
from flashjax.data.kinds.manifest import NAMES as MANIFESTS
from flashjax.data.kinds.manifest import open_manifest
from flashjax.data.pictures import SUFFIXES
from flashjax.types import InputError


def open_folder(folder: Path, empty: str) -> Listed:
    """The pictures below a folder, by name. InputError for none.

    A manifest in the folder (metadata.jsonl, .csv or .parquet) says which they are and what they
    show; else the text file of the same name does.
    """
    for name in MANIFESTS:
        if (folder / name).is_file():
            return open_manifest(folder / name, empty)
    paths = sorted(
        (path for path in folder.rglob("*") if _is_picture(path, folder)),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if not paths:
        raise InputError(f"{folder} holds no picture: give files of {', '.join(SUFFIXES)}")
    return captioned(str(folder), [_entry(path, folder) for path in paths], empty)


def _is_picture(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _entry(path: Path, folder: Path) -> Entry:
    text = path.with_suffix(".txt")
    where = path.relative_to(folder).as_posix()
    size = str(path.stat().st_size)
    return Entry(where, read_caption(text), lambda: path.open("rb"), size)


def read_caption(path: Path) -> str:
    """The text of a caption's file on one line; "" where there is none."""
    if not path.is_file():
        return ""
    try:
        return " ".join(path.read_text("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8: save it as UTF-8") from error
