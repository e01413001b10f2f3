"""A whole pipeline in diffusers' folder layout: read, and written whole or not at all."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.convert import configs
from flashjax.convert.configs import Json
from flashjax.convert.tensors import open_weights, read_json, replacing, write_safetensors
from flashjax.convert.text import (
    clip_from_transformers,
    clip_is_projected,
    clip_to_transformers,
    t5_from_transformers,
    t5_to_transformers,
)
from flashjax.convert.transformer import transformer_from_diffusers, transformer_to_diffusers
from flashjax.convert.vae import vae_from_diffusers, vae_to_diffusers
from flashjax.models.clip import CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.text import TextConfig
from flashjax.models.vae import VAEConfig
from flashjax.types import InputError, Params

_INDEX = "model_index.json"
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
_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"  # names of the weights' files


@dataclass(frozen=True)
class Pipeline:
    """All networks of one model; `text` is {"clip_l", "clip_g", "t5"}.

    `shift` bends the sampler's sigmas; `sample_size` is the default side of the latents it makes.
    """

    transformer: Params
    transformer_config: MMDiTConfig
    vae: Params
    vae_config: VAEConfig
    text: Params
    text_config: TextConfig
    shift: float = 3.0
    sample_size: int = 128


def read_pipeline(folder: Path | str) -> Pipeline:
    """The networks of a folder, float32. InputError for what is missing, broken or unlike SD3."""
    folder = Path(folder)
    if not (folder / _INDEX).is_file():
        raise InputError(f"{folder} has no {_INDEX}: give a pipeline's folder in diffusers' layout")
    transformer, transformer_config = read_transformer(folder / "transformer")
    vae, vae_config = read_vae(folder / "vae")
    clip_l, clip_l_config = read_clip(folder / "text_encoder")
    clip_g, clip_g_config = read_clip(folder / "text_encoder_2")
    t5, t5_config = read_t5(folder / "text_encoder_3")
    return Pipeline(
        transformer=transformer,
        transformer_config=transformer_config,
        vae=vae,
        vae_config=vae_config,
        text={"clip_l": clip_l, "clip_g": clip_g, "t5": t5},
        text_config=TextConfig(clip_l_config, clip_g_config, t5_config),
        shift=_value(folder / "scheduler" / "scheduler_config.json", "shift"),
        sample_size=_value(folder / "transformer" / "config.json", "sample_size"),
    )


def read_transformer(folder: Path) -> tuple[Params, MMDiTConfig]:
    """The `transformer` folder of a pipeline."""
    config = configs.mmdit_config_from_diffusers(*_config(folder))
    return transformer_from_diffusers(open_weights(folder, _DIFFUSERS), config), config


def read_vae(folder: Path) -> tuple[Params, VAEConfig]:
    """The `vae` folder of a pipeline."""
    config = configs.vae_config_from_diffusers(*_config(folder))
    return vae_from_diffusers(open_weights(folder, _DIFFUSERS), config), config


def read_clip(folder: Path) -> tuple[Params, CLIPConfig]:
    """The `text_encoder` or `text_encoder_2` folder of a pipeline."""
    tensors = open_weights(folder, _TRANSFORMERS)
    projected = clip_is_projected(tensors)
    config = configs.clip_config_from_transformers(*_config(folder), projected=projected)
    return clip_from_transformers(tensors, config), config


def read_t5(folder: Path) -> tuple[Params, T5Config]:
    """The `text_encoder_3` folder of a pipeline."""
    config = configs.t5_config_from_transformers(*_config(folder))
    return t5_from_transformers(open_weights(folder, _TRANSFORMERS), config), config


def write_pipeline(
    folder: Path | str, pipeline: Pipeline, *, tokenizers_from: Path | str, dtype: Any = np.float16
) -> None:
    """Write a folder that `StableDiffusion3Pipeline.from_pretrained` loads, weights in `dtype`.

    The tokenizers are copied from another pipeline's folder. An older pipeline is replaced once the
    new one is complete; InputError if `folder` holds something else.
    """
    folder, tokenizers_from = Path(folder), Path(tokenizers_from)
    if folder.exists() and not (folder / _INDEX).is_file() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something that is no pipeline: choose an empty folder")
    for name in _TOKENIZERS:
        if not (tokenizers_from / name).is_dir():
            raise InputError(f"{tokenizers_from / name} does not exist: give a pipeline's folder")
    with replacing(folder) as temporary:
        for name, (stem, config, tensors) in _networks(pipeline).items():
            _write_json(temporary / name / "config.json", config)
            write_safetensors(temporary / name / f"{stem}.safetensors", tensors, dtype=dtype)
        _write_json(temporary / "scheduler" / "scheduler_config.json", _scheduler(pipeline.shift))
        _write_json(temporary / _INDEX, _model_index())
        for name in _TOKENIZERS:
            shutil.copytree(tokenizers_from / name, temporary / name)


def _networks(pipeline: Pipeline) -> dict[str, tuple[str, Json, dict[str, np.ndarray]]]:
    """For each folder of weights: the stem of its file, its config.json, its tensors."""
    text, sizes = pipeline.text, pipeline.text_config

    def clip(params: Params, config: CLIPConfig) -> tuple[str, Json, dict[str, np.ndarray]]:
        written = configs.clip_config_to_transformers(config)
        return _TRANSFORMERS, written, clip_to_transformers(params, config)

    return {
        "transformer": (
            _DIFFUSERS,
            configs.mmdit_config_to_diffusers(
                pipeline.transformer_config, sample_size=pipeline.sample_size
            ),
            transformer_to_diffusers(pipeline.transformer, pipeline.transformer_config),
        ),
        "vae": (
            _DIFFUSERS,
            configs.vae_config_to_diffusers(pipeline.vae_config),
            vae_to_diffusers(pipeline.vae, pipeline.vae_config),
        ),
        "text_encoder": clip(text["clip_l"], sizes.clip_l),
        "text_encoder_2": clip(text["clip_g"], sizes.clip_g),
        "text_encoder_3": (
            _TRANSFORMERS,
            configs.t5_config_to_transformers(sizes.t5),
            t5_to_transformers(text["t5"], sizes.t5),
        ),
    }


def _scheduler(shift: float) -> Json:
    return {
        "_class_name": _CLASSES["scheduler"][1],
        "_diffusers_version": configs.DIFFUSERS_VERSION,
        "num_train_timesteps": 1000,
        "shift": shift,
    }


def _model_index() -> Json:
    index = {name: list(library_and_class) for name, library_and_class in _CLASSES.items()}
    header = {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": configs.DIFFUSERS_VERSION,
    }
    return header | index


def _config(folder: Path) -> tuple[Json, str]:
    """The config.json of `folder`, and its name for messages."""
    path = folder / "config.json"
    return read_json(path), str(path)


def _value(path: Path, key: str) -> Any:
    content = read_json(path)
    if key not in content:
        raise InputError(f"{path} lacks {key}")
    return content[key]


def _write_json(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
