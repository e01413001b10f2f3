"""Pictures and captions to what a cache keeps of them, on all devices of this process.

Letters: n samples, h w pixels.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flashjax.data.buckets import Size
from flashjax.data.cache import CONDS, LATENTS, TOKENS, Field, Kept
from flashjax.data.config import DataConfig
from flashjax.data.tokenizers import Tokenizer
from flashjax.models import vae
from flashjax.models.text import encode_text
from flashjax.parallel.mesh import make_mesh
from flashjax.stages.model import made_with, open_model
from flashjax.stages.setting import computed_text
from flashjax.types import Cond, Params, Tokens

# Pixels that a device encodes at a time: 32 pictures of 64 x 64, one of 362 x 362 or more. More
# leave a CPU's caches, and an encoder's activations are half a kilobyte a pixel.
PIXELS = 32 * 64 * 64


def to_unit(images: np.ndarray) -> np.ndarray:
    """uint8 pictures to [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def encode_images(config: vae.VAEConfig, params: Params, images: np.ndarray) -> np.ndarray:
    """Latents "n h w c" of uint8 pictures "n H W 3"; the last chunk is padded, then cut."""
    mesh = make_mesh({"data": -1}, jax.local_devices())
    split = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    chunk = max(1, PIXELS // (images.shape[1] * images.shape[2])) * mesh.size
    padded = images[np.arange(-(-len(images) // chunk) * chunk) % len(images)]

    def encoded(part: np.ndarray) -> np.ndarray:
        return np.asarray(_encode(config, params, jax.device_put(to_unit(part), split)))

    starts = range(0, len(padded), chunk)
    chunks = [encoded(padded[start : start + chunk]) for start in starts]
    return np.concatenate(chunks)[: len(images)]


_encode = jax.jit(vae.encode, static_argnums=0)


@dataclass(frozen=True)
class Encoder:
    """The networks that make a cache, on this process' own devices.

    `condition` encodes tokens, for a cache of embeddings; without it captions are kept as tokens.
    """

    vae_config: vae.VAEConfig
    vae: Params
    tokenizer: Tokenizer
    condition: Callable[[Tokens], Cond] | None
    dtype: Kept

    def texts(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """The fields of captions."""
        tokens = self.tokenizer(list(captions))
        if self.condition is None:
            return {name: np.asarray(getattr(tokens, name)) for name in TOKENS}
        cond = self.condition(tokens)
        return {name: np.asarray(getattr(cond, name)) for name in CONDS}

    @functools.cached_property
    def empty(self) -> Mapping[str, np.ndarray]:
        """The fields of the empty caption, encoded once."""
        return self.texts([""])

    def latents(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The field of pictures uint8 "n H W 3"."""
        return {LATENTS: encode_images(self.vae_config, self.vae, images)}

    def shape(self, size: Size) -> tuple[int, int, int]:
        """The shape of the latents of a picture."""
        factor = self.vae_config.factor
        return size[0] // factor, size[1] // factor, self.vae_config.latent_channels

    def fields(self, size: Size | None) -> dict[str, Field]:
        """What a record holds, of a picture of this size or of a caption alone."""
        dtype: Kept = "int32" if self.condition is None else self.dtype
        found = {name: Field(array.shape[1:], dtype) for name, array in self.empty.items()}
        return ({} if size is None else {LATENTS: Field(self.shape(size), self.dtype)}) | found


def open_encoder(
    config: ConfigDict, workdir: Path, data: DataConfig
) -> tuple[Encoder, dict[str, Any], int]:
    """The encoders of the imported model, what a cache of theirs is made with, and its own side.

    Only what is needed is read: for tokens the autoencoder alone.
    """
    apart = data.text == "embeddings"
    pipeline, tokenizer = open_model(workdir, names=("vae", "text") if apart else ("vae",))
    condition = None
    if apart:
        text = on_a_device(pipeline.text)
        sizes = computed_text(config, pipeline.text_config)
        encode = jax.jit(lambda params, tokens: encode_text(sizes, params, tokens))
        condition = functools.partial(encode, text)
    encoder = Encoder(
        pipeline.vae_config, on_a_device(pipeline.vae), tokenizer, condition, data.dtype
    )
    side = pipeline.sample_size * pipeline.vae_config.factor
    return encoder, made_with(workdir, data, data.size or side), side


def on_a_device(params: Params) -> Params:
    """Parameters on a device of this process, which may compute with them alone."""
    return jax.device_put(params, jax.local_devices()[0])
