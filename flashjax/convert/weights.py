"""The weights of a network's folder: a whole file, or shards and their index; several of these.

Which one is read is what the folder's own library reads; where there was a choice, a line says so.
Source: diffusers `ModelMixin.from_pretrained`, transformers `PreTrainedModel.from_pretrained`.
"""

import re
from pathlib import Path

from flashjax.convert import mistaken
from flashjax.convert.fields import say
from flashjax.convert.reading import open_safetensors
from flashjax.convert.scales import dequantised
from flashjax.convert.tensors import Tensors, joined
from flashjax.data.jsons import read_json
from flashjax.types import InputError, listed

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # how each library names its files
INDEX_FIRST = (DIFFUSERS,)  # an index wins over a whole file; with transformers, the file does
VARIANTS = ("", "fp32", "fp16", "bf16")  # the order in which they are looked for; others follow
_SHARD = re.compile(r"[^/\\\0]{1,240}\.safetensors")


def open_weights(folder: Path | str, stem: str) -> Tensors:
    """The tensors of `stem`.safetensors in `folder`, or of the shards that its index.json lists.

    Codes with scales are what they stand for. Of several variants (`stem`.fp16.safetensors) the
    first that is complete. InputError if none is, or for an index that leaves its folder.
    """
    folder = Path(folder)
    problems, found = [], _sets(folder, stem)
    for variant in sorted(found, key=_order):
        try:
            path, shards = _chosen(found[variant], index_first=stem in INDEX_FIRST)
        except Incomplete as problem:
            problems.append(problem)
            continue
        others = sorted(other.name for paths in found.values() for other in paths if other != path)
        if others or variant:
            say(f"{folder}: {path.name} is read" + (f", not {listed(others)}" if others else ""))
        return dequantised(_joined(folder, path, shards) if shards else open_safetensors(path))
    raise problems[0] if problems else _absent(folder, stem)


class Incomplete(InputError):
    """An index some of whose shards are not there."""


def _sets(folder: Path, stem: str) -> dict[str, list[Path]]:
    """Whole files and indices by variant, "" without one."""
    variant = r"(?:\.(\w+))?"  # each library's versions have put it in another of these places
    name = re.compile(
        rf"{re.escape(stem)}{variant}\.safetensors(?:{variant}\.index{variant}\.json)?"
    )
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (match := name.fullmatch(path.name)) and path.is_file():
            found.setdefault("".join(filter(None, match.groups())), []).append(path)
    return found


def _order(variant: str) -> tuple[int, str]:
    return VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), variant


def _chosen(paths: list[Path], *, index_first: bool) -> tuple[Path, dict[str, str]]:
    """Of one variant: the whole file, or an index and where it has each tensor."""
    whole = [path for path in paths if path.suffix != ".json"]
    indices = [path for path in paths if path.suffix == ".json"]
    if whole and not (indices and index_first):
        return whole[0], {}
    index = indices[0]
    places = _places(index)
    files = dict.fromkeys(places.values())
    absent = [file for file in files if not (index.parent / file).is_file()]
    if len(absent) == len(files) and whole:  # what diffusers leaves behind when it saves anew
        return whole[0], {}
    if absent:
        raise Incomplete(f"{index.parent} lacks {listed(absent)}: {index.name} lists it, fetch it")
    return index, places


def _places(index: Path) -> dict[str, str]:
    """The file of each tensor of an index. InputError unless all are shards beside it."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{index} has no weight_map: it is not the index of a sharded model")
    for file in places.values():
        if not isinstance(file, str) or not _SHARD.fullmatch(file):
            raise InputError(
                f"{index}: its weight_map names {str(file)[:80]!r}; give names of safetensors "
                "files beside it"
            )
    return places


def _joined(folder: Path, index: Path, places: dict[str, str]) -> Tensors:
    """The tensors of all shards. InputError for one that is not where the index has it."""
    shards = {file: open_safetensors(folder / file) for file in sorted(set(places.values()))}
    lost = [f"{name} of {file}" for name, file in places.items() if name not in shards[file]]
    if lost:
        raise InputError(f"{folder} lacks {listed(lost)}: {index.name} lists it, fetch it")
    tensors = joined(*shards.values())
    return Tensors(str(folder), tensors.infos, tensors.piece, tensors.metadata)


def _absent(folder: Path, stem: str) -> InputError:
    if told := mistaken.pickles_instead(folder, stem):
        return InputError(told)
    return InputError(f"{folder / stem}.safetensors does not exist: give a network's whole folder")
