"""`slim`: a cheaper autoencoder that keeps the latents of a pipeline's own.

The transformer that was trained on those latents stays as it is. Few steps make this worth while:
the fewer passes a picture takes, the larger the decoder's share of it.
"""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from flashjax.convert.folder import read_pipeline, write_pipeline
from flashjax.convert.pipeline import Pipeline
from flashjax.data.samples import images_of
from flashjax.models.vae import VAEConfig, decode
from flashjax.stages.autoencoder import train_autoencoder
from flashjax.stages.encoding import encode_images, to_unit
from flashjax.stages.model import source_of
from flashjax.stages.registry import open_samples, task_named
from flashjax.stages.stage import run_stage
from flashjax.train.autoencode import make_slim_step, psnr_db
from flashjax.types import InputError, Params

MEASURED = 500  # unseen pictures that both autoencoders draw


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the autoencoder and writes the pipeline with it, everything else as it was."""
    source = source_of(config)

    def body(folder: Path) -> dict[str, Any]:
        pipeline = read_pipeline(source)
        slim = slim_config(config.slim.channels, pipeline.vae_config)
        samples = open_samples(config, workdir / "data")
        images = images_of(samples["train"])
        make_step = functools.partial(make_slim_step, slim, pipeline.vae_config)
        params = train_autoencoder("slim", config, slim, images, folder, make_step, pipeline.vae)
        written = dataclasses.replace(pipeline, vae=params, vae_config=slim)
        write_pipeline(folder / "pipeline", written, tokenizers_from=source)
        judge = task_named(config).judge_folder
        if (source / judge).is_dir():
            shutil.copytree(source / judge, folder / "pipeline" / judge, dirs_exist_ok=True)
        unseen = images_of(samples["validation"])[:MEASURED]
        return compare(pipeline, slim, params, unseen)

    return run_stage(
        "slim",
        {"data": config.data.to_dict(), **config.slim},
        workdir,
        body,
        inputs={"source": source},
        seed=config.seed,
    )


def slim_config(channels: tuple[int, ...], whole: VAEConfig) -> VAEConfig:
    """The sizes of the cheaper autoencoder. InputError if they do not fit the whole one's."""
    if len(channels) != len(whole.channels):
        raise InputError(
            f"slim.channels={channels} has {len(channels)} levels, the source's autoencoder "
            f"{len(whole.channels)}: give as many, or its latents would be of another size"
        )
    if any(width % whole.groups for width in channels):
        raise InputError(
            f"slim.channels={channels}: the source's norms have {whole.groups} groups, so give "
            f"multiples of {whole.groups}"
        )
    return dataclasses.replace(whole, channels=channels)


def compare(
    pipeline: Pipeline, slim: VAEConfig, params: Params, images: np.ndarray
) -> dict[str, float]:
    """How well each decoder draws the pipeline's latents, and how far the slim encoder's are."""
    whole = pipeline.vae_config
    latents = encode_images(whole, pipeline.vae, images)
    error = encode_images(slim, params, images) - latents
    decoded = jax.jit(decode, static_argnums=0)
    psnr = functools.partial(psnr_db, jnp.asarray(to_unit(images)))
    return {
        "psnr_db_before": float(psnr(decoded(whole, pipeline.vae, latents))),
        "psnr_db": float(psnr(decoded(slim, params, latents))),
        "latents_error": float(np.std(error) / np.std(latents)),
    }
