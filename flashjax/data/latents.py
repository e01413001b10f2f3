"""The cache of a dataset as the networks see it: latents and caption tokens, in one file.

Letters: n samples, h w c latent grid and channels, m text tokens.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flashjax.types import Batch, InputError, Tokens

TRAIN = "train.safetensors"  # the cache of the training split, in its stage's folder


class Stored:
    """An array "n ..." of a file, of which only the rows that are asked for are read."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.shape = tuple(rows.get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        return np.concatenate([self._rows[row : row + 1] for row in chosen.tolist()])


def save_latents(path: Path, samples: Batch) -> None:
    """Write latents float32 "n h w c" and token ids int32 "n m", whole or not at all."""
    draft = path.with_suffix(".tmp")
    save_file({"latents": np.asarray(samples.latents), **vars(samples.tokens)}, draft)
    os.replace(draft, path)


def load_latents(path: Path) -> Batch:
    """Open a cache; its rows are read as they are used. InputError for no file or a broken one."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: run the prepare stage first")
    try:
        file = safe_open(path, framework="np")
        arrays: dict[str, Any] = {name: Stored(file.get_slice(name)) for name in file.keys()}
        return Batch(latents=arrays.pop("latents"), tokens=Tokens(**arrays))
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no cache of latents ({error}): delete its folder") from error


def without_pictures(tokens: Tokens, shape: tuple[int, ...]) -> Batch:
    """Captions alone, for training that needs no pictures: latents "n *shape" that are all 0.

    They take no memory.
    """
    blank = np.broadcast_to(np.float32(0), (len(tokens.t5), *shape))
    return Batch(latents=blank, tokens=tokens)
