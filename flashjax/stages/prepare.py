"""`prepare`: pictures and captions to caches of latents and tokens."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flashjax.data.latents import TRAIN, save_latents
from flashjax.data.samples import Samples, captions_of, images_of
from flashjax.data.tokenizers import Tokenizer
from flashjax.models import vae
from flashjax.parallel.hosts import is_first
from flashjax.stages.model import open_model
from flashjax.stages.registry import open_samples
from flashjax.stages.stage import run_stage
from flashjax.types import Batch, Params

CHUNK = 32  # images encoded at a time: a larger chunk leaves the CPU's caches


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Opens the data and caches latents and tokens of the training split."""

    def body(folder: Path) -> dict[str, Any]:
        pipeline, tokenizer = open_model(workdir)
        counts = {}
        if is_first():
            samples = open_samples(config, workdir / "data")
            counts = {split: len(found) for split, found in samples.items()}
            prepare_split(
                samples["train"],
                folder / TRAIN,
                tokenizer=tokenizer,
                config=pipeline.vae_config,
                params=on_this_process(pipeline.vae),
            )
        return counts

    return run_stage(
        "prepare",
        config.data.to_dict(),
        workdir,
        body,
        inputs={"import": workdir / "import"},
        seed=config.seed,
    )


def on_this_process(params: Params) -> Params:
    """Parameters that all processes share, as this one's own: it may compute with them alone."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), params)


def to_unit(images: np.ndarray) -> np.ndarray:
    """uint8 pictures to [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def encode_images(config: vae.VAEConfig, params: Params, images: np.ndarray) -> np.ndarray:
    """Latents "n h w c" of uint8 pictures "n H W 3"; the last chunk is padded, then cut."""
    encode = jax.jit(lambda params, chunk: vae.encode(config, params, chunk))
    padded = np.concatenate([images, images[: -len(images) % CHUNK]])
    chunks = [
        np.asarray(encode(params, to_unit(padded[start : start + CHUNK])))
        for start in range(0, len(padded), CHUNK)
    ]
    return np.concatenate(chunks)[: len(images)]


def prepare_split(
    samples: Samples,
    path: Path,
    *,
    tokenizer: Tokenizer,
    config: vae.VAEConfig,
    params: Params,
) -> None:
    """Writes the cache of one split: latents of its pictures, tokens of its captions."""
    latents = encode_images(config, params, images_of(samples))
    save_latents(path, Batch(latents=latents, tokens=tokenizer(captions_of(samples))))
