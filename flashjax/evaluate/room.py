"""How many pictures are drawn at a time: as many as a device has room for, by shapes alone.

Letters: h w latents, n image tokens, m text tokens.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from flashjax.convert.pipeline import Pipeline
from flashjax.convert.transformer import abstract_transformer
from flashjax.convert.vae import abstract_vae
from flashjax.evaluate.sample import LARGEST_TILE
from flashjax.models import vae
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.models.text import AbsentT5
from flashjax.models.vae import VAEConfig
from flashjax.parallel.liveness import peak_bytes
from flashjax.types import Cond, Tokens

SHARE = 0.8  # of what is free: compilers keep some arrays longer than they must
SCORES = 3 * 4  # bytes of scores, their exponentials and their softmax, in float32


def fitting(most: int, rows: int, of_one: int) -> int:
    """Pictures to draw at a time: at most `most`, a multiple of `rows`, by what devices have free.

    `rows` is how many devices share them, `of_one` the bytes of a picture. Half as many are tried
    until they fit, so that it is the same number from one start to the next.
    """
    each = -(-most // rows)
    room = free_bytes()
    while each > 1 and each * of_one > SHARE * room:
        each = -(-each // 2)
    return each * rows


def picture_bytes(
    pipeline: Pipeline,
    tokens: Tokens,
    size: tuple[int, int],
    *,
    guided: bool,
    attention: str = "xla",
) -> int:
    """The most bytes that one picture of latents `size` "h w" takes while it is drawn.

    Weights and text encoders are not counted. Where attention is XLA's, its scores are.
    """
    t5 = pipeline.text_config.t5
    length = t5.length if isinstance(t5, AbsentT5) else tokens.t5.shape[1]
    return _bytes(
        dataclasses.replace(pipeline.transformer_config, remat="none"),
        pipeline.vae_config,
        tokens.clip_l.shape[1] + length,
        size,
        2 if guided else 1,
        attention,
    )


@functools.cache
def _bytes(
    config: MMDiTConfig,
    decoder: VAEConfig,
    text_tokens: int,
    size: tuple[int, int],
    passes: int,
    attention: str,
) -> int:
    shape: Any = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    cond = Cond(
        shape((passes, text_tokens, config.text_width)), shape((passes, config.pooled_width))
    )
    latents, level = shape((passes, *size, config.channels)), shape((passes,))
    drawing = peak_bytes(
        velocity_of(MMDiT(config)), abstract_transformer(config), latents, level, cond
    )
    tile = min(size[0], LARGEST_TILE), min(size[1], LARGEST_TILE)
    decoding = peak_bytes(
        functools.partial(vae.decode, decoder),
        abstract_vae(decoder),
        shape((1, *tile, config.channels)),
    )
    tokens = (size[0] // config.patch) * (size[1] // config.patch) + text_tokens
    drawing += SCORES * passes * config.heads * tokens**2 if attention == "xla" else 0
    decoding += SCORES * (tile[0] * tile[1]) ** 2  # of one head, always by XLA
    pictures = 3 * 4 * decoder.factor**2 * size[0] * size[1]
    return max(drawing, decoding + pictures)


def free_bytes() -> int:
    """What a device has free, the least of all processes; on CPUs its share of this machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    else:
        free = _available() // jax.local_device_count()
    if jax.process_count() == 1:
        return free
    return int(multihost_utils.process_allgather(np.float64(free)).min())


def _available() -> int:
    """Bytes that this machine has left, as Linux counts them; elsewhere nobody knows."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else 2**62
