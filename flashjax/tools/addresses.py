"""Flags that name what lies at gs:// or s3://: brought here before a tool runs, put there after it.

A tool sees paths of this machine only. What it writes is made here and put there as a whole, or not
at all; it never takes the place of what somebody else has there.
"""

import argparse
import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashjax.convert.outputs import is_file_name, recorded
from flashjax.data.remote.fetch import fetched
from flashjax.data.remote.lock import held
from flashjax.data.remote.shelf import check_ours, push
from flashjax.data.remote.store import Store, cache_folder, is_bucket
from flashjax.data.remote.told import calling
from flashjax.types import InputError

READ = "source base lora prompts judges calibrate measure".split()  # flags of what is read
BESIDE = ("import",)  # a stage's folder is a model with this one of its run
OUTPUTS = "outputs"  # the folder of what is not there yet
_ADDRESS = re.compile(r"(^|(?<=[,=]))([a-z][a-z0-9+]*://[^,]*?)(?=(:[-+\d.e]+)?(,|$))")


@contextlib.contextmanager
def here(options: argparse.Namespace) -> Iterator[None]:
    """Flags with paths of this machine; when the block ends well, its outputs are where asked.

    `--real` stays: pictures are read from where they are.
    """
    for flag in READ:
        if value := getattr(options, flag, None):
            setattr(options, flag, brought(value))
    out = getattr(options, "out", None)
    if not out or not is_bucket(out):
        yield
        return
    with put(out) as place:
        options.out = str(place)
        yield


def brought(value: Any) -> Any:
    """A flag's text, or texts, in which every address is the path of its copy.

    Addresses may stand between commas, after `NAME=`, and before a LoRA's `:SCALE`.
    """
    if isinstance(value, list):
        return [brought(text) for text in value]
    return _ADDRESS.sub(lambda found: _path(found[0]), value)


def _path(text: str) -> str:
    return str(fetched(text, beside=BESIDE)) if is_bucket(text) else text


@contextlib.contextmanager
def put(out: str) -> Iterator[Path]:
    """A path to write to; what flashjax has recorded there is put at `out` when the block ends.

    If it does not end well, what is written stays, and the same command goes on from it.
    """
    out = out.rstrip("/")
    root, _, name = out.rpartition("/")
    if root.endswith(("/", ":")):
        raise InputError(f"--out {out} is a whole bucket: name a folder in it")
    single = is_file_name(Path(name))
    store = Store.of(root if single else out)
    work = cache_folder() / OUTPUTS / hashlib.sha256(out.encode()).hexdigest()[:16]
    place = work / name
    with held(store) as check:
        check_ours(store, [name] if single else None)
        place.parent.mkdir(parents=True, exist_ok=True)
        with calling(place, out):
            yield place
        files = recorded(work if single else place)
        if not files:
            raise InputError(f"nothing was written for {out}, {place} is empty")
        tops = {file.partition("/")[0] for file in files}
        push(store, files, keep=lambda file: file.partition("/")[0] not in tops, check=check)
    shutil.rmtree(work)
