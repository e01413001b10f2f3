"""`prepare`: scenes and captions to caches of latents and tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flashjax.data.latents import TRAIN, save_latents
from flashjax.data.pipeline import stack
from flashjax.data.tokenizers import Tokenizer
from flashjax.models import vae
from flashjax.parallel.hosts import is_first
from flashjax.stages.model import open_model
from flashjax.stages.stage import run_stage
from flashjax.tasks.digit_scenes.builder import SPLITS, open_scenes
from flashjax.types import Batch, Params

CHUNK = 32  # images encoded at a time: a larger chunk leaves the CPU's caches


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Composes the scenes and caches latents and tokens of the training split."""

    def body(folder: Path) -> dict[str, Any]:
        pipeline, tokenizer = open_model(workdir)
        if is_first():
            scenes = open_scenes(workdir / "data", **config.data)
            prepare_split(
                scenes["train"],
                folder / TRAIN,
                tokenizer=tokenizer,
                config=pipeline.vae_config,
                params=on_this_process(pipeline.vae),
            )
        return {split: config.data[split] for split in SPLITS}

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


def captions_of(source: Sequence[dict[str, Any]]) -> list[str]:
    """The captions of a dataset split."""
    return [source[index]["caption"].decode() for index in range(len(source))]


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
    source: Sequence[dict[str, Any]],
    path: Path,
    *,
    tokenizer: Tokenizer,
    config: vae.VAEConfig,
    params: Params,
) -> None:
    """Writes the cache of one split: latents of its pictures, tokens of its captions."""
    latents = encode_images(config, params, stack(source, "image"))
    save_latents(path, Batch(latents=latents, tokens=tokenizer(captions_of(source))))
