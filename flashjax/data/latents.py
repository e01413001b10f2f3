"""The cache of a dataset as the networks see it: latents and caption tokens, in one file.

Letters: n samples, h w c latent grid and channels, m text tokens.
"""

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flashjax.types import Batch, InputError, Tokens

TRAIN = "train.safetensors"  # the cache of the training split, in its stage's folder


def save_latents(path: Path, samples: Batch) -> None:
    """Write latents float32 "n h w c" and token ids int32 "n m", whole or not at all."""
    draft = path.with_suffix(".tmp")
    save_file({"latents": np.asarray(samples.latents), **vars(samples.tokens)}, draft)
    os.replace(draft, path)


def load_latents(path: Path) -> Batch:
    """Read a cache as host arrays. InputError for a missing or broken file."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: run the prepare stage first")
    try:
        arrays = load_file(path)
        return Batch(latents=arrays.pop("latents"), tokens=Tokens(**arrays))
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no cache of latents ({error}): delete its folder") from error
