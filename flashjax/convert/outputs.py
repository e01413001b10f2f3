"""Where a tool writes, and what it may write over: what a manifest beside it says was ours.

A name that ends like a file is that file, another one a folder. The manifest knows size and time of
every file, so that what somebody changed, or put there, is theirs.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from flashjax.convert.writing import replacing, write_json
from flashjax.data.jsons import read_json
from flashjax.types import InputError

MANIFEST = ".flashjax.json"
FILES = (  # how names of files end, where a folder of that name would be a surprise
    ".safetensors .gguf .png .jpg .jpeg .webp .mlpackage .ckpt .pt .pth .bin .sft .onnx .xml .html"
).split()
Stamp: TypeAlias = list[int]  # bytes of a file and the time of its last change, in ns


def is_file_name(out: Path) -> bool:
    """Whether a name is that of a file, by its end."""
    return out.suffix.lower() in FILES


def places(out: Path, names: Sequence[str]) -> list[Path]:
    """Where the files and folders `names` go: into the folder `out`, or a single one to `out`.

    InputError where `out` is a file's name and there are several, or ends as another kind does.
    """
    if not is_file_name(out):
        if out.is_file():
            raise InputError(f"--out {out} is a file: name a folder")
        return [out / name for name in names]
    if len(names) > 1:
        raise InputError(
            f"--out {out} is one file, and {len(names)} things are to be written "
            f"({', '.join(names)}): name a folder"
        )
    suffix = Path(names[0]).suffix
    if suffix.lower() != out.suffix.lower():
        kind = f"a file that ends in {suffix}" if suffix else "a folder"
        raise InputError(f"--out {out}: this format is {kind} (as {names[0]}), name it so")
    return [out]


def check_free(
    paths: Iterable[Path], *, force: bool, ours: bool = True, read: Iterable[Path] = ()
) -> None:
    """InputError for a path that holds what flashjax did not write, or what is `read` from.

    Without `ours` one that flashjax did write is an InputError, too. `force` gives files away, but
    never a folder in which somebody else has a file. InputError, too, where nothing can be written.
    """
    paths = list(paths)
    for folder in dict.fromkeys(path.parent for path in paths):
        _manifest(folder)  # one that is not ours is found out before it would be written over
    sources = [_real(source) for source in read]
    for path in paths:
        held = path.exists() and any(_files(path))
        if held and not (ours or force or foreign(path)):
            raise InputError(
                f"{path} is there already, as flashjax wrote it: choose another --out, or give "
                "--force to write over it"
            )
        here = _real(path)
        if any(here == source or here in source.parents for source in sources):
            raise InputError(f"{path} is what is read: choose another --out")
        if path.is_dir():
            _check_folder(path, force=force)
        elif (path.exists() or path.is_symlink()) and not force and foreign(path):
            raise InputError(
                f"{path} is there, and flashjax did not write it so: choose another --out, or "
                "give --force to write over it"
            )
    for folder in dict.fromkeys(path.parent for path in paths):
        check_writable(folder)


def check_writable(folder: Path) -> None:
    """InputError where nothing can be made in a folder, or in the one that it would be made in."""
    here = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    try:
        tempfile.TemporaryFile(dir=here).close()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise InputError(
            f"nothing can be written in {here} ({why}): choose another place"
        ) from error


def foreign(path: Path) -> list[Path]:
    """The file `path`, or those of a folder, that flashjax did not write, or not as they are."""
    known = _manifest(path.parent)
    return [file for file in _files(path) if known.get(_key(path, file)) != _stamp(file)]


def write_as(path: Path, write: Callable[[Path], Path]) -> None:
    """Has `write(folder)` write its file or folder, and makes it `path`, as ours."""
    with replacing(path) as new:
        write(new.parent).rename(new)
    keep_record(path)


def keep_record(path: Path) -> None:
    """Enters what was written to `path`, a file or a folder, into the manifest beside it."""
    new = {_key(path, file): _stamp(file) for file in _files(path)}
    gone = (path.name, f"{path.name}/")
    old = {
        name: stamp
        for name, stamp in _manifest(path.parent).items()
        if name != gone[0] and not name.startswith(gone[1])
    }
    with replacing(path.parent / MANIFEST) as draft:
        write_json(draft, {"written by flashjax": dict(sorted((old | new).items()))})


def recorded(folder: Path) -> dict[str, Path]:
    """The files of a folder that flashjax wrote and that are as it wrote them, by their names."""
    known = _manifest(folder)
    return {key: folder / key for key, stamp in known.items() if _is_as(folder / key, stamp)}


def _is_as(file: Path, stamp: Stamp) -> bool:
    return file.is_file() and _stamp(file) == stamp


def _real(path: Path) -> Path:
    """The path without links; links that lead in a circle stay."""
    return Path(os.path.realpath(path))


def _check_folder(path: Path, *, force: bool) -> None:
    if is_file_name(path) and path.suffix != ".mlpackage":
        raise InputError(f"{path} is a folder: choose another --out")
    strange = foreign(path)
    if force:  # a file that was ours may have been changed, but not one that is not ours
        known = _manifest(path.parent)
        strange = [file for file in strange if _key(path, file) not in known]
    if strange:
        more = f" and {len(strange) - 1} more files" if len(strange) > 1 else ""
        raise InputError(
            f"{path} holds {strange[0].relative_to(path)}{more} that flashjax did not write so: "
            "choose another --out, or move it away (--force takes what was ours and is changed)"
        )


def _files(path: Path) -> Iterator[Path]:
    """A file, or all that a folder holds but folders."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for child in sorted(path.iterdir()):
        yield from _files(child)


def _key(path: Path, file: Path) -> str:
    return file.relative_to(path.parent).as_posix()


def _stamp(file: Path) -> Stamp:
    found = file.lstat()
    return [found.st_size, found.st_mtime_ns]


def _manifest(folder: Path) -> Mapping[str, Stamp]:
    path = folder / MANIFEST
    content = read_json(path) if path.is_file() else {"written by flashjax": {}}
    if not isinstance(content.get("written by flashjax"), dict):
        raise InputError(f"{path} is no manifest of flashjax: move it away")
    return content["written by flashjax"]
