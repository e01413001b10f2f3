"""Any checkpoint that a user has, recognised by what it holds and not by how it is called."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashjax.checkpoint import load_params
from flashjax.convert import folder as folders
from flashjax.convert import sai
from flashjax.convert.configs import TRANSFORMER, mmdit_config_from_diffusers
from flashjax.convert.fields import say
from flashjax.convert.pipeline import (
    ABSENT_T5_TOKENS,
    NETWORKS,
    Parts,
    Pipeline,
    Place,
    assemble,
    in_float32,
)
from flashjax.convert.reading import open_safetensors, read_json
from flashjax.convert.sizes import mmdit_sizes
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import abstract_transformer, transformer_from
from flashjax.convert.weights import open_weights
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.variants import SD3_VAE
from flashjax.quantize.containers.gguf import MAGIC, open_gguf
from flashjax.quantize.formats import DIFFUSERS_STEM, dequantised
from flashjax.trees import check_same
from flashjax.types import InputError

KINDS = {
    "pipeline": "a pipeline's folder in diffusers' layout",
    "transformer": "its transformer folder alone, torchao's too",
    "single": "a single safetensors file, ComfyUI's and MLX's quantised ones too",
    "gguf": "a GGUF file",
    "orbax": "parameters that a flashjax stage wrote",
}


def kind_of(path: Path) -> str:
    """Which of KINDS a path is. InputError if it is none."""
    if path.is_file():
        with path.open("rb") as file:
            return "gguf" if file.read(len(MAGIC)) == MAGIC else "single"
    if (path / folders.INDEX).is_file():
        return "pipeline"
    if (path / "config.json").is_file():
        return "transformer"
    if (path / "params").is_dir() or (path / "_METADATA").is_file():
        return "orbax"
    raise InputError(f"{path} is no model: give {', or '.join(KINDS.values())}")


def read_parts(
    path: Path,
    *,
    known: Mapping[str, Any] | None = None,
    place: Place = in_float32,
    names: Sequence[str] = NETWORKS,
) -> Parts:
    """Those of the networks `names` that are there; `known` has configs that files do not say."""
    kind, known = kind_of(path), known or {}
    if kind == "pipeline":
        return folders.read_parts(path, place=place, names=names)
    if kind == "transformer":
        tensors, config = open_transformer(path)
        params = transformer_from(tensors, config, "diffusers", place("transformer"))
        return {"transformer": (params, config)}
    if kind == "single":
        tensors = dequantised(open_safetensors(path))
        return sai.parts_of(tensors, place=place, known=known, names=names)
    if kind == "gguf":
        tensors = sai.split_file(open_gguf(path))["transformer"]
        config = mmdit_sizes(tensors, known.get("transformer"))
        params = transformer_from(tensors, config, "sai", place("transformer"))
        return {"transformer": (params, config)}
    return _read_orbax(path, known)


def open_transformer(folder: Path) -> tuple[Tensors, MMDiTConfig]:
    """A transformer's folder: its tensors, unpacked, under diffusers' names, and its sizes."""
    path = folder / "config.json"
    config = mmdit_config_from_diffusers(read_json(path), str(path))
    return dequantised(open_weights(folder, DIFFUSERS_STEM)), config


def open_pipeline(
    source: Path,
    *,
    base: Path | None = None,
    place: Place = in_float32,
    absent_t5: int = ABSENT_T5_TOKENS,
) -> Pipeline:
    """The model of `source`; networks that it lacks, and its settings, are those of `base`.

    `base` is a pipeline's folder; it may be left out where `source` is one.
    """
    home = home_of(source, base)
    if home == source:
        return folders.read_pipeline(source, place=place, absent_t5=absent_t5)
    known = folders.read_configs(home)
    parts = read_parts(source, known=known, place=place)
    missing = [name for name in NETWORKS if name not in parts]
    parts = folders.read_parts(home, place=place, names=missing) | parts
    size = sample_size_of(source, parts["transformer"][1], base=home)
    settings = folders.settings(home) | {"sample_size": size}
    return assemble(parts, where=f"{source} with {home}", absent_t5=absent_t5, **settings)


def sample_size_of(source: Path, config: MMDiTConfig, *, base: Path | None = None) -> int:
    """The side of the latents that a model draws unless told otherwise, as `source` has it.

    A file that does not say it, or more than its position table spans, has that of the pipeline's
    folder `base`, or else SD3's own, as far as the table goes.
    """
    kind = kind_of(source)
    if kind in ("pipeline", "transformer"):
        return folders.sample_size(source / "transformer" if kind == "pipeline" else source)
    said = [_resolution(open_safetensors(source).metadata)] if kind == "single" else []
    said += [folders.sample_size(base / "transformer")] if base else []
    most = config.patch * config.position_size
    for size in said:
        if 0 < size <= most and size % config.patch == 0:
            return size
    size = min(TRANSFORMER["sample_size"], most)
    say(f"{source} does not say the size of its pictures: sample_size is taken to be {size}")
    return size


def _resolution(metadata: Mapping[str, str]) -> int:
    """The side of the latents of square pictures by a file's metadata; 0 where it says none."""
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", str(metadata.get("modelspec.resolution")))
    height, width = map(int, found.groups()) if found else (0, 0)
    return height // SD3_VAE.factor if height == width else 0


def transformer_sizes(source: Path, base: Path | None = None) -> MMDiTConfig:
    """The sizes of a source's transformer, from names and shapes alone; no weight is read."""
    kind = kind_of(source)
    if kind == "single":
        return mmdit_sizes(sai.split_file(dequantised(open_safetensors(source)))["transformer"])
    if kind == "gguf":
        return mmdit_sizes(sai.split_file(open_gguf(source))["transformer"])
    if kind == "orbax":
        return folders.read_configs(home_of(source, base))["transformer"]
    path = (source / "transformer" if kind == "pipeline" else source) / "config.json"
    return mmdit_config_from_diffusers(read_json(path), str(path))


def home_of(source: Path, base: Path | None) -> Path:
    """The folder that has tokenizers and settings: the source if it is a whole pipeline."""
    if kind_of(source) == "pipeline":
        return source
    if base is None:
        raise InputError(
            f"{source} has no tokenizers: give --base the folder of a pipeline that has them"
        )
    return base


def _read_orbax(path: Path, known: Mapping[str, Any]) -> Parts:
    """The transformer that a stage wrote; its sizes are the base's."""
    if "transformer" not in known:
        raise InputError(f"{path} does not say its sizes: give --base its teacher's folder")
    nested = path / "params" / "transformer"  # of the stage `import`, which keeps each network
    inside = path / "params" if (path / "params").is_dir() else path
    params = load_params(nested if nested.is_dir() else inside)
    params, config = params.get("transformer", params), known["transformer"]
    check_same(abstract_transformer(config), params, where=f"{path}, with the sizes of --base,")
    return {"transformer": (params, config)}


def in_dtype(pipeline: Pipeline, dtype: Any) -> Pipeline:
    """The same model, its transformer computing in `dtype`."""
    config = dataclasses.replace(pipeline.transformer_config, dtype=dtype)
    return dataclasses.replace(pipeline, transformer_config=config)
