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

from flashjax import config as configs
from flashjax.checkpoint import save_params
from flashjax.convert.folder import read_pipeline, write_pipeline
from flashjax.convert.pipeline import Pipeline
from flashjax.data.digit_scenes import open_scenes
from flashjax.data.pipeline import batches, stack
from flashjax.models.vae import VAE, VAEConfig, decode, encode
from flashjax.stages.model import source_of
from flashjax.stages.prepare import to_unit
from flashjax.stages.stage import run_stage
from flashjax.stages.training import JobConfig, run_job, show_parameters
from flashjax.train.autoencode import make_slim_step, psnr_db
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import init_state
from flashjax.types import InputError, Params

MEASURED = 500  # unseen pictures that both autoencoders draw


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the autoencoder and writes the pipeline with it, everything else as it was."""
    source = source_of(config)

    def body(folder: Path) -> dict[str, Any]:
        pipeline = read_pipeline(source)
        slim = slim_config(config.slim.channels, pipeline.vae_config)
        scenes = open_scenes(workdir / "data", **config.data)
        params = train(config, pipeline, slim, stack(scenes["train"], "image"), folder)
        written = dataclasses.replace(pipeline, vae=params, vae_config=slim)
        write_pipeline(folder / "pipeline", written, tokenizers_from=source)
        if (source / "reader").is_dir():
            shutil.copytree(source / "reader", folder / "pipeline" / "reader", dirs_exist_ok=True)
        unseen = to_unit(stack(scenes["validation"], "image")[:MEASURED])
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


def train(
    config: ConfigDict, pipeline: Pipeline, slim: VAEConfig, images: np.ndarray, folder: Path
) -> Params:
    """The averaged weights of an autoencoder `slim` that speaks the pipeline's latents."""
    job = configs.section(config, "slim.job", JobConfig)
    tx = make_optimiser(configs.section(config, "slim.optimiser", OptimiserConfig), job.steps)
    key = jax.random.key(config.seed)

    def init() -> Any:
        params = jax.jit(VAE(slim).init)(key, jnp.zeros((1, *images.shape[1:])))["params"]
        show_parameters(params)
        # Where the source's weights are: a state of no fixed place would be compiled for twice.
        return jax.device_put(init_state(params, tx), jax.devices()[0])

    step = make_slim_step(slim, pipeline.vae_config, tx, kl_weight=config.slim.kl_weight)
    advance = jax.jit(step, donate_argnums=0)
    state = run_job(
        "slim",
        folder,
        job,
        step=lambda state, batch: advance(state, pipeline.vae, to_unit(np.asarray(batch)), key),
        init=init,
        abstract=jax.eval_shape(init),
        data=batches(images, batch_size=job.batch_size, seed=config.seed),
    )
    save_params(folder / "params", state.learner.ema)
    return state.learner.ema


def compare(
    pipeline: Pipeline, slim: VAEConfig, params: Params, images: np.ndarray
) -> dict[str, float]:
    """How well each decoder draws the pipeline's latents, and how far the slim encoder's are."""
    encoded = jax.jit(encode, static_argnums=0)
    decoded = jax.jit(decode, static_argnums=0)
    latents = encoded(pipeline.vae_config, pipeline.vae, images)
    psnr = functools.partial(psnr_db, jnp.asarray(images))
    error = encoded(slim, params, images) - latents
    return {
        "psnr_db_before": float(psnr(decoded(pipeline.vae_config, pipeline.vae, latents))),
        "psnr_db": float(psnr(decoded(slim, params, latents))),
        "latents_error": float(jnp.std(error) / jnp.std(latents)),
    }
