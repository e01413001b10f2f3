"""What a model takes in memory where it is deployed: weights in a format, arrays while it draws.

Everything follows from shapes; nothing is allocated.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flashjax import trees
from flashjax.convert.tensors import Info, shapes_only
from flashjax.convert.text import abstract_clip, abstract_t5
from flashjax.convert.transformer import abstract_transformer, transformer_rows
from flashjax.convert.vae import abstract_vae
from flashjax.models import vae
from flashjax.models.clip import CLIPText
from flashjax.models.layers import apply
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.models.text import TextConfig
from flashjax.models.vae import VAEConfig
from flashjax.parallel.liveness import peak_bytes
from flashjax.quantize.containers.packing import packed
from flashjax.quantize.containers.t5 import t5_bytes
from flashjax.quantize.formats import FOLDER, GGUF, SINGLE, of_block
from flashjax.quantize.policy import BLOCKS, SCHEMES, choose
from flashjax.types import Cond

DTYPE = jnp.bfloat16  # of activations, and of all that is not quantised
TYPICAL_RMS = 0.02  # of weights: nothing is too small for its type


@dataclass(frozen=True)
class Sizes:
    """One model: its networks, and how many tokens its captions have in T5."""

    transformer: MMDiTConfig
    text: TextConfig
    vae: VAEConfig
    t5_tokens: int


@dataclass(frozen=True)
class Need:
    """Bytes of each network's weights and of what it holds while it runs."""

    weights: Mapping[str, int]
    activations: Mapping[str, int]

    def loaded(self, names: tuple[str, ...]) -> int:
        """All networks `names` loaded, one of them running."""
        running = max(self.activations[name] for name in names)
        return sum(self.weights[name] for name in names) + running

    def in_turn(self, names: tuple[str, ...]) -> int:
        """Each of `names` loaded when it is its turn, and dropped after it."""
        return max(self.weights[name] + self.activations[name] for name in names)


def transformer_bytes(config: MMDiTConfig, format_name: str) -> int:
    """Bytes of the transformer's tensors in a format of quantize/formats.py."""
    infos = {
        key: Info(row.shape, np.dtype(np.float16))
        for row in transformer_rows(config, "sai")
        for key in row.keys
    }
    if format_name in GGUF:
        scheme = GGUF[format_name]
        return sum(
            choose(name, info.shape, scheme=scheme, rms=TYPICAL_RMS).codec.encoded_bytes(info.size)
            for name, info in infos.items()
        )
    packing = (SINGLE | FOLDER)[format_name]
    return packed(shapes_only(infos), packing, chosen=of_block("sai")).nbytes


def wider(config: MMDiTConfig, format_name: str) -> dict[str, float]:
    """Shares of the transformer's weights whose rows a format's type cannot hold, by their type."""
    scheme, packing = GGUF.get(format_name, ""), (SINGLE | FOLDER).get(format_name)
    found: Counter[str] = Counter()
    total = 0
    for row in transformer_rows(config, "sai"):
        for key in row.keys:
            size = math.prod(row.shape)
            total += size
            if not key.startswith(BLOCKS) or len(row.shape) < 2:
                continue
            if scheme:
                codec = choose(key, row.shape, scheme=scheme, rms=TYPICAL_RMS).codec
                found[codec.name] += size * (codec is not SCHEMES[scheme])
            if packing:
                found["16 bits"] += size * (row.shape[1] % packing.columns > 0)
    return {name: size / total for name, size in found.items() if size}


def needs(sizes: Sizes, formats: Mapping[str, str], *, pixels: int) -> dict[str, Need]:
    """What one picture of `pixels` x `pixels` needs, with the transformer in each format.

    `formats` gives the format of T5 that goes with it, "" for 16 bits.
    """
    params = abstract_networks(sizes)
    running = activations(sizes, params, pixels=pixels)
    weights = {name: DTYPE.dtype.itemsize * trees.count(tree) for name, tree in params.items()}
    found = {}
    for name, t5_format in formats.items():
        own = {"transformer": transformer_bytes(sizes.transformer, name)}
        if t5_format and isinstance(sizes.text.t5, T5Config):
            own["t5"] = t5_bytes(t5_format, sizes.text.t5)
        found[name] = Need(weights | own, running)
    return found


def abstract_networks(sizes: Sizes) -> dict[str, Any]:
    """The shapes of all weights, in DTYPE."""
    text = sizes.text
    trees_of = {
        "transformer": abstract_transformer(sizes.transformer),
        "vae": abstract_vae(sizes.vae),
        "clip_l": abstract_clip(text.clip_l),
        "clip_g": abstract_clip(text.clip_g),
    }
    if isinstance(text.t5, T5Config):
        trees_of["t5"] = abstract_t5(text.t5)
    return {
        name: jax.eval_shape(lambda tree: trees.cast(tree, DTYPE), tree)
        for name, tree in trees_of.items()
    }


def activations(sizes: Sizes, params: Mapping[str, Any], *, pixels: int) -> dict[str, int]:
    """The most bytes that each network holds while it works on one picture."""
    side, text = pixels // sizes.vae.factor, sizes.text
    tokens = text.clip_tokens + sizes.t5_tokens
    shape: Any = partial(jax.ShapeDtypeStruct, dtype=DTYPE)
    cond = Cond(
        shape((1, tokens, sizes.transformer.text_width)),
        shape((1, sizes.transformer.pooled_width)),
    )
    latents = shape((1, side, side, sizes.transformer.channels))
    config = dataclasses.replace(sizes.transformer, dtype=DTYPE)
    level = jax.ShapeDtypeStruct((1,), jnp.float32)
    found = {
        "transformer": peak_bytes(
            velocity_of(MMDiT(config)), params["transformer"], latents, level, cond
        ),
        "vae": peak_bytes(partial(vae.decode, sizes.vae), params["vae"], latents),
    }
    for name in ("clip_l", "clip_g", "t5"):
        if name in params:
            encoder = getattr(text, name)
            length = sizes.t5_tokens if name == "t5" else encoder.length
            model = T5Encoder(encoder) if name == "t5" else CLIPText(encoder)
            ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
            found[name] = peak_bytes(partial(apply, model), params[name], ids)
    return found
