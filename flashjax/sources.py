"""Any checkpoint that a user has, recognised by what it holds and not by how it is called."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashjax.checkpoint import load_params
from flashjax.convert import folder as folders
from flashjax.convert import mistaken, sai
from flashjax.convert.adapters import Lora, with_loras
from flashjax.convert.configs import (
    TRANSFORMER,
    mmdit_config_from_diffusers,
    vae_config_from_diffusers,
)
from flashjax.convert.fields import say
from flashjax.convert.naming import network
from flashjax.convert.pipeline import (
    ABSENT_T5_TOKENS,
    NETWORKS,
    Parts,
    Pipeline,
    Place,
    assemble,
    in_float32,
)
from flashjax.convert.reading import open_safetensors
from flashjax.convert.scales import dequantised
from flashjax.convert.sizes import mmdit_sizes, vae_shapes
from flashjax.convert.table import check_shapes
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import (
    abstract_transformer,
    transformer_from,
    transformer_rows,
    transformer_to,
    translated,
)
from flashjax.convert.weights import open_weights
from flashjax.data.jsons import read_json
from flashjax.models.halved import told
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.vae import VAEConfig
from flashjax.models.variants import SD3_VAE
from flashjax.quantize.containers.gguf import MAGIC, open_gguf
from flashjax.quantize.formats import DIFFUSERS_STEM
from flashjax.trees import check_same
from flashjax.types import InputError

KINDS = {
    "pipeline": "a pipeline's folder in diffusers' layout",
    "transformer": "its transformer folder alone, torchao's too",
    "single": "a single safetensors file, ComfyUI's and MLX's quantised ones too",
    "gguf": "a GGUF file",
    "orbax": "parameters that a flashjax stage wrote",
}
LORA_FLAG: dict[str, Any] = {  # of every verb that takes a source
    "action": "append",
    "default": [],
    "metavar": "FILE:SCALE",
    "help": "a LoRA to add, may be repeated",
}


@dataclasses.dataclass(frozen=True)
class Opened:
    """A transformer that nothing is read of yet: its tensors are exactly those of `config`.

    They have the names that `naming` says, "sai" or "diffusers". `vae` is the autoencoder's sizes
    where they are known: that which lies with it, or the base's.
    """

    tensors: Tensors
    config: MMDiTConfig
    naming: str
    vae: VAEConfig = SD3_VAE

    def under_sai_names(self) -> Tensors:
        """The tensors under SAI's names."""
        return translated(self.tensors, self.config, given=self.naming, wanted="sai")


def kind_of(path: Path) -> str:
    """Which of KINDS a path is. InputError if it is none."""
    if path.is_file():
        with path.open("rb") as file:
            return "gguf" if file.read(len(MAGIC)) == MAGIC else "single"
    if (path / folders.INDEX).is_file():
        return "pipeline"
    if (path / "config.json").is_file():
        if told := mistaken.workdir(path):
            raise InputError(told)
        return "transformer"
    if (path / "params").is_dir() or (path / "_METADATA").is_file():
        return "orbax"
    if path.is_dir() and (told := mistaken.other_folder(path)):
        raise InputError(told)
    if not os.path.exists(path):
        raise InputError(mistaken.other_place(path) or mistaken.absent(path))
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
    if kind in ("single", "gguf"):
        return sai.parts_of(open_file(path), place=place, known=known, names=names)
    if kind == "transformer":
        found = open_transformer(path)
        given = found.tensors, found.config, found.naming
        return {"transformer": (transformer_from(*given, place("transformer")), found.config)}
    return _read_orbax(path, known)


def open_file(path: Path) -> Tensors:
    """The tensors of a safetensors file or a GGUF, what is kept as codes being undone."""
    if found := re.search(r"-\d{5}-of-(\d{5})\.", path.name):
        if int(found[1]) > 1:
            raise InputError(f"{path} is one of {int(found[1])} shards: give the folder of all")
    return open_gguf(path) if kind_of(path) == "gguf" else dequantised(open_safetensors(path))


def open_transformer(path: Path, *, known: Mapping[str, Any] | None = None) -> Opened:
    """The transformer of any checkpoint, before it is read.

    InputError unless names and shapes are exactly a transformer's.
    """
    kind, vae = kind_of(path), (known or {}).get("vae", SD3_VAE)
    if kind in ("single", "gguf"):
        networks = sai.split_file(open_file(path))
        vae = vae_shapes(networks["vae"]) if "vae" in networks else vae
        if "transformer" not in networks:
            raise InputError(f"{path} holds {', '.join(networks)} and no transformer")
        tensors, naming = networks["transformer"], "sai"
        config = mmdit_sizes(tensors, (known or {}).get("transformer"))
    elif kind in ("pipeline", "transformer"):
        folder = path / "transformer" if kind == "pipeline" else path
        if (beside := path / "vae" / "config.json").is_file():
            vae = vae_config_from_diffusers(read_json(beside), str(beside))
        config_path, naming = folder / "config.json", "diffusers"
        config = mmdit_config_from_diffusers(read_json(config_path), str(config_path))
        tensors = network(open_weights(folder, DIFFUSERS_STEM), "transformer", naming)
    else:
        params, config = _read_orbax(path, known or {})["transformer"]
        tensors, naming = transformer_to(params, config, "sai"), "sai"
    check_shapes(transformer_rows(config, naming), tensors)
    return Opened(tensors, config, naming, vae)


def open_pipeline(
    source: Path,
    *,
    base: Path | None = None,
    place: Place = in_float32,
    absent_t5: int = ABSENT_T5_TOKENS,
    loras: Sequence[Lora] = (),
) -> Pipeline:
    """The model of `source`; networks that it lacks, and its settings, are those of `base`.

    `base` is a pipeline's folder; it may be left out where `source` is one. The products of `loras`
    are added to whichever network they are of.
    """
    home = home_of(source, base)
    if home == source:
        parts, where = folders.read_parts(source, place=place), str(source)
        size = folders.sample_size(source / "transformer")
    else:
        known = folders.read_configs(home)
        parts = read_parts(source, known=known, place=place)
        missing = [name for name in NETWORKS if name not in parts]
        parts = folders.read_parts(home, place=place, names=missing) | parts
        where = f"{source} with {home}"
        factor = factor_of(parts, home)
        size = sample_size_of(source, parts["transformer"][1], factor=factor, base=home)
    if loras:
        parts = with_loras(parts, loras, place=place)
    settings = folders.settings(home) | {"sample_size": size}
    return assemble(parts, where=where, absent_t5=absent_t5, **settings)


def name_of(source: Path) -> str:
    """What a checkpoint is called: its folder's name, or its file's without what says its kind."""
    kind = source.suffix if source.suffix.lower() in (".safetensors", ".gguf") else ""
    return source.name.removesuffix(kind)


def sample_size_of(
    source: Path, config: MMDiTConfig, *, factor: int, base: Path | None = None
) -> int:
    """The side of the latents that a model draws unless told otherwise, as `source` has it.

    `factor` counts the pixels along a latent, which is what a single file says its size in.
    A file that does not say it, or more than its position table spans, has that of the pipeline's
    folder `base`, or else SD3's own, as far as the table goes.
    """
    kind = kind_of(source)
    if kind in ("pipeline", "transformer"):
        return folders.sample_size(source / "transformer" if kind == "pipeline" else source)
    said = [_resolution(source) // factor] if kind == "single" else []
    said += [folders.sample_size(base / "transformer")] if base else []
    most = config.patch * config.position_size
    for size in said:
        if 0 < size <= most and size % config.patch == 0:
            return size
    size = min(TRANSFORMER["sample_size"], most)
    say(f"{source} does not say the size of its pictures: sample_size is taken to be {size}")
    return size


def factor_of(parts: Parts, base: Path | None = None) -> int:
    """Pixels along a latent: of the autoencoder in `parts`, else of that in the folder `base`.

    Of SD3's where there is neither.
    """
    if "vae" in parts:
        return parts["vae"][1].factor
    return folders.read_configs(base)["vae"].factor if base else SD3_VAE.factor


def _resolution(path: Path) -> int:
    """The side in pixels of square pictures by a file's metadata; 0 where it says none."""
    told = open_safetensors(path).metadata.get("modelspec.resolution")
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", str(told))
    height, width = map(int, found.groups()) if found else (0, 0)
    return height if height == width else 0


def transformer_sizes(source: Path, base: Path | None = None) -> MMDiTConfig:
    """The sizes of a source's transformer, from names and shapes alone; no weight is read."""
    if kind_of(source) == "orbax":
        return folders.read_configs(home_of(source, base))["transformer"]
    return open_transformer(source).config


def base_folder(text: str | Path | None) -> Path | None:
    """The folder of --base, if it was given. InputError where nothing is there."""
    if not text:
        return None
    if not os.path.exists(text):
        told = mistaken.other_place(Path(text)) or mistaken.absent(Path(text))
        raise InputError(f"--base: {told}")
    return Path(text)


def home_of(source: Path, base: Path | None) -> Path:
    """The folder that has tokenizers and settings: the source if it is a whole pipeline.

    InputError for a pipeline without T5 beside a base that has one, which would not be used.
    """
    if kind_of(source) == "pipeline":
        if base and kind_of(base) == "pipeline" and folders.has_t5(base) > folders.has_t5(source):
            raise InputError(
                f"--base {base}: {source} is a whole pipeline, and has no T5: give --source "
                f"{source / 'transformer'} to have all else of --base, or leave --base out"
            )
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
    params, config = told(params.get("transformer", params), halved=False), known["transformer"]
    check_same(abstract_transformer(config), params, where=f"{path}, with the sizes of --base,")
    return {"transformer": (params, config)}


def in_dtype(pipeline: Pipeline, dtype: Any) -> Pipeline:
    """The same model, its transformer computing in `dtype`."""
    config = dataclasses.replace(pipeline.transformer_config, dtype=dtype)
    return dataclasses.replace(pipeline, transformer_config=config)
