"""Stability AI's single file: the transformer and the autoencoder under their original names.

Source: layout of sd3.5_medium.safetensors; metadata of https://github.com/Stability-AI/ModelSpec.
"""

from pathlib import Path
from typing import Any

import numpy as np

from flashjax.convert.configs import mmdit_config_from_sai
from flashjax.convert.folder import Pipeline
from flashjax.convert.tensors import open_safetensors, write_safetensors
from flashjax.convert.transformer import transformer_from_sai, transformer_to_sai
from flashjax.convert.vae import vae_from_sai, vae_to_sai
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.vae import VAEConfig
from flashjax.types import Params

TRANSFORMER, VAE = "model.diffusion_model.", "first_stage_model."


def read_sai(path: Path | str) -> tuple[Params, MMDiTConfig]:
    """The transformer of a file, float32, with or without prefix, and its sizes.

    InputError if the file is broken or holds no whole SD3 transformer.
    """
    tensors = open_safetensors(path)
    if any(key.startswith(TRANSFORMER) for key in tensors.shapes):
        tensors = tensors.under(TRANSFORMER)
    config = mmdit_config_from_sai(tensors.shapes, tensors.where)
    return transformer_from_sai(tensors, config), config


def read_sai_vae(path: Path | str, config: VAEConfig) -> Params:
    """The autoencoder of a file, float32. InputError if its tensors are not exactly `config`'s."""
    return vae_from_sai(open_safetensors(path).under(VAE), config)


def write_sai(
    path: Path | str,
    pipeline: Pipeline,
    *,
    title: str,
    with_vae: bool = True,
    dtype: Any = np.float16,
) -> None:
    """Write one file that ComfyUI and its kin load; text encoders are files of their own there."""
    tensors = transformer_to_sai(
        pipeline.transformer, pipeline.transformer_config, prefix=TRANSFORMER
    )
    if with_vae:
        tensors |= vae_to_sai(pipeline.vae, pipeline.vae_config, prefix=VAE)
    side = pipeline.sample_size * pipeline.vae_config.factor
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v3.5-medium",
        "modelspec.title": title,
        "modelspec.resolution": f"{side}x{side}",
    }
    write_safetensors(path, tensors, dtype=dtype, metadata=metadata)
