"""A whole pipeline in diffusers' folder layout: read, and written whole or not at all."""

import reprlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.convert import configs
from flashjax.convert.configs import Json
from flashjax.convert.fields import say
from flashjax.convert.pipeline import (
    ABSENT_T5_TOKENS,
    NETWORKS,
    Parts,
    Pipeline,
    Place,
    assemble,
    in_float32,
    read_all,
)
from flashjax.convert.table import FLOAT32, Placement
from flashjax.convert.tensors import Tensors
from flashjax.convert.text import clip_from, clip_is_projected, clip_to, t5_from, t5_to
from flashjax.convert.transformer import transformer_from, transformer_to
from flashjax.convert.vae import vae_from, vae_to
from flashjax.convert.weights import DIFFUSERS, TRANSFORMERS, open_weights
from flashjax.convert.writing import MAX_SHARD_BYTES, replacing, write_json, write_weights
from flashjax.data.jsons import read_json
from flashjax.data.tokenizers import check_files
from flashjax.flow.schedule import Schedule
from flashjax.models.clip import CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.vae import VAEConfig
from flashjax.types import InputError, Params

INDEX = "model_index.json"
FOLDERS = {
    "transformer": "transformer",
    "vae": "vae",
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "t5": "text_encoder_3",
}
_CLASSES = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_3": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
    "tokenizer_3": ("transformers", "T5TokenizerFast"),
}
_T5_ENTRIES = ("text_encoder_3", "tokenizer_3")


def read_pipeline(
    folder: Path | str, *, place: Place = in_float32, absent_t5: int = ABSENT_T5_TOKENS
) -> Pipeline:
    """The model of a folder. InputError for what is missing, broken or unlike SD3.

    Where T5 is left out, its tokens are `absent_t5` zeros.
    """
    folder = Path(folder)
    return assemble(
        read_parts(folder, place=place), where=str(folder), absent_t5=absent_t5, **settings(folder)
    )


def settings(folder: Path) -> Json:
    """The `schedule` and `sample_size` of a folder's model."""
    _index(folder)
    path = folder / "scheduler" / "scheduler_config.json"
    return {
        "schedule": configs.schedule_from_diffusers(read_json(path), str(path)),
        "sample_size": sample_size(folder / "transformer"),
    }


def sample_size(transformer: Path) -> int:
    """The side of the latents that the folder of a transformer is for."""
    return configs.sample_size_from_diffusers(*_config(transformer))


def read_parts(
    folder: Path, *, place: Place = in_float32, names: Sequence[str] = NETWORKS
) -> Parts:
    """The networks `names` of a folder; T5 is left out where the folder's index leaves it out.

    InputError for a folder that is no pipeline's, and for all that is wrong with any network.
    """
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder} has no {INDEX}: give a pipeline's folder in diffusers' layout")
    if "t5" in names and not has_t5(folder):
        say(f"{folder} is read without T5, which its {INDEX} leaves out")
        names = [name for name in names if name != "t5"]
    readers: dict[str, Callable[..., tuple[Params, Any]]] = {
        "transformer": read_transformer,
        "vae": read_vae,
        "clip_l": read_clip,
        "clip_g": read_clip,
        "t5": read_t5,
    }
    return read_all(
        {name: partial(readers[name], folder / FOLDERS[name], place(name)) for name in names}
    )


def read_configs(folder: Path) -> dict[str, Any]:
    """The config of every network; of the weights only what tells whether a CLIP is projected."""
    found = {
        "transformer": configs.mmdit_config_from_diffusers(*_config(folder / "transformer")),
        "vae": configs.vae_config_from_diffusers(*_config(folder / "vae")),
        "clip_l": _clip_config(folder / FOLDERS["clip_l"]),
        "clip_g": _clip_config(folder / FOLDERS["clip_g"]),
    }
    if has_t5(folder):
        found["t5"] = configs.t5_config_from_transformers(*_config(folder / FOLDERS["t5"]))
    return found


def has_t5(folder: Path) -> bool:
    """Whether the index of a pipeline's folder names a third text encoder."""
    return _index(folder)["text_encoder_3"]


def read_transformer(folder: Path, placement: Placement = FLOAT32) -> tuple[Params, MMDiTConfig]:
    """The `transformer` folder of a pipeline."""
    config = configs.mmdit_config_from_diffusers(*_config(folder))
    tensors = open_weights(folder, DIFFUSERS)
    return transformer_from(tensors, config, "diffusers", placement), config


def read_vae(folder: Path, placement: Placement = FLOAT32) -> tuple[Params, VAEConfig]:
    """The `vae` folder of a pipeline."""
    config = configs.vae_config_from_diffusers(*_config(folder))
    return vae_from(open_weights(folder, DIFFUSERS), config, "diffusers", placement), config


def read_clip(folder: Path, placement: Placement = FLOAT32) -> tuple[Params, CLIPConfig]:
    """The `text_encoder` or `text_encoder_2` folder of a pipeline."""
    config = _clip_config(folder)
    return clip_from(open_weights(folder, TRANSFORMERS), config, placement), config


def read_t5(folder: Path, placement: Placement = FLOAT32) -> tuple[Params, T5Config]:
    """The `text_encoder_3` folder of a pipeline."""
    config = configs.t5_config_from_transformers(*_config(folder))
    return t5_from(open_weights(folder, TRANSFORMERS), config, placement), config


def write_pipeline(
    folder: Path | str,
    pipeline: Pipeline,
    *,
    tokenizers_from: Path | str,
    dtype: Any = np.float16,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder that `StableDiffusion3Pipeline.from_pretrained` loads, weights in `dtype`.

    `dtype` None keeps each tensor's own. The tokenizers are copied from another pipeline's folder.
    An older pipeline is replaced once the new one is complete; InputError if `folder` holds
    something else.
    """
    folder, tokenizers_from = Path(folder), Path(tokenizers_from)
    if folder.exists() and not (folder / INDEX).is_file() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something that is no pipeline: choose an empty folder")
    with_t5 = "t5" in pipeline.text
    check_tokenizers(tokenizers_from, with_t5=with_t5)
    with replacing(folder) as new:
        write_parts(
            new,
            pipeline.parts,
            sample_size=pipeline.sample_size,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
        )
        write_frame(
            new, schedule=pipeline.schedule, with_t5=with_t5, tokenizers_from=tokenizers_from
        )


def check_tokenizers(folder: Path, *, with_t5: bool) -> None:
    """InputError for a pipeline's folder without the tokenizers that it should have."""
    for name in _tokenizers(with_t5=with_t5):
        check_files(folder / name, "a pipeline's folder")


def write_frame(folder: Path, *, schedule: Schedule, with_t5: bool, tokenizers_from: Path) -> None:
    """Write what makes networks' folders a pipeline: index, scheduler and tokenizers."""
    scheduler = configs.schedule_to_diffusers(schedule)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / INDEX, model_index(with_t5=with_t5))
    for name in _tokenizers(with_t5=with_t5):
        shutil.copytree(tokenizers_from / name, folder / name)


def _tokenizers(*, with_t5: bool) -> list[str]:
    index = model_index(with_t5=with_t5)
    return [name for name in index if name.startswith("tokenizer") and all(index[name])]


def write_parts(
    folder: Path,
    parts: Parts,
    *,
    sample_size: int = 128,
    dtype: Any = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the folder of each network: each is what its own class's `from_pretrained` loads."""
    for name, (params, config) in parts.items():
        stem, written, tensors = network(name, params, config, sample_size)
        home = folder / FOLDERS[name]
        write_json(home / "config.json", written)
        write_weights(home, stem, tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)


def model_index(*, with_t5: bool) -> Json:
    """The model_index.json; a T5 that is left out has null entries."""
    index: Json = {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": configs.DIFFUSERS_VERSION,
    }
    for name, library_and_class in _CLASSES.items():
        absent = name in _T5_ENTRIES and not with_t5
        index[name] = [None, None] if absent else list(library_and_class)
    return index


def network(
    name: str, params: Params, config: Any, sample_size: int = 128
) -> tuple[str, Json, Tensors]:
    """For a network's folder: the stem of its file, its config.json, its tensors."""
    if name == "transformer":
        written = configs.mmdit_config_to_diffusers(config, sample_size=sample_size)
        return DIFFUSERS, written, transformer_to(params, config, "diffusers")
    if name == "vae":
        written = configs.vae_config_to_diffusers(config)
        return DIFFUSERS, written, vae_to(params, config, "diffusers")
    if name == "t5":
        return TRANSFORMERS, configs.t5_config_to_transformers(config), t5_to(params, config)
    return TRANSFORMERS, configs.clip_config_to_transformers(config), clip_to(params, config)


def _index(folder: Path) -> dict[str, bool]:
    """Which parts the index of a folder names. InputError for one of another class than SD3's.

    Of tokenizers any class will do: what they hold tells more.
    """
    path = folder / INDEX
    content, found = read_json(path), {}
    for name, (_, wanted) in _CLASSES.items():
        entry = content.get(name) or (None, None)
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise InputError(f"{path}: {name} is {reprlib.repr(entry)}; give [library, class]")
        found[name] = entry[1] is not None
        if found[name] and entry[1] != wanted and not name.startswith("tokenizer"):
            raise InputError(f"{path}: {name} is {entry[1]!r}; only {wanted} is supported")
    if found["text_encoder_3"] and not found["tokenizer_3"]:  # T5 would be told nothing
        raise InputError(
            f"{path} names text_encoder_3 and no tokenizer_3: name it, or leave both out "
            "([null, null])"
        )
    return found


def _config(folder: Path) -> tuple[Json, str]:
    """The config.json of `folder`, and its name for messages."""
    path = folder / "config.json"
    return read_json(path), str(path)


def _clip_config(folder: Path) -> CLIPConfig:
    projected = clip_is_projected(open_weights(folder, TRANSFORMERS))
    return configs.clip_config_from_transformers(*_config(folder), projected=projected)
