"""A teacher in the layout of SD3.5-Medium, narrow, with random weights: a folder and a single file.

True are: the position table of 384 x 384, dual attention in the first blocks, norms of queries and
keys, a last block that only reads its text, text encoders of 77 and 256 tokens, T5 in several files
with an index, 16 latent channels, shift 3, a sample size of 1024 pixels. Narrow are the widths, and
where it is asked for the depths.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from flashjax import trees
from flashjax.convert.folder import write_frame, write_parts
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.sai import model_spec, write_sai
from flashjax.convert.text import abstract_text
from flashjax.convert.transformer import abstract_transformer
from flashjax.convert.vae import abstract_vae
from flashjax.data.tokenizers import build_tokenizers, load_tokenizers
from flashjax.models.clip import CLIPConfig
from flashjax.models.layers import position_table
from flashjax.models.t5 import T5Config
from flashjax.models.text import TextConfig
from flashjax.models.variants import MMDIT, SD3_TEXT, SD3_VAE
from flashjax.types import Params

TRUE = MMDIT["sd35_medium"]
STORED = ml_dtypes.bfloat16
T5_TOKENS, T5_FILES = 256, 3
SPARE = 28  # rows of T5's table that no token has: SD3.5's has 32,128 for 32,100 tokens


@dataclasses.dataclass(frozen=True)
class Narrow:
    """What may be smaller than in SD3.5-Medium; heads stay 64 wide."""

    depth: int = TRUE.depth
    dual: int = TRUE.dual
    heads: int = 2
    position_size: int = TRUE.position_size
    channels: tuple[int, ...] = (32, 32, 64, 64)  # of the autoencoder
    groups: int = SD3_VAE.groups

    @property
    def taps(self) -> tuple[int, ...]:
        """A quarter, half, three quarters and all of the blocks, as the recipes tap them."""
        return tuple(self.depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))


def write_teacher(home: Path, words: Sequence[str], narrow: Narrow) -> tuple[Path, Path]:
    """Writes a pipeline's folder and a single file of the same model; returns where they are."""
    folder, single, tokenizers = home / "folder", home / "sd3.5_narrow.safetensors", home / "words"
    build_tokenizers(tokenizers, words, clip_length=SD3_TEXT.clip_l.length, t5_length=T5_TOKENS)
    tokenizer = load_tokenizers(tokenizers)
    pipeline = _pipeline(narrow, len(tokenizer.clip_l), len(tokenizer.t5 or ()) + SPARE)
    _write_folder(folder, pipeline, tokenizers)
    side = pipeline.sample_size * pipeline.vae_config.factor
    spec = model_spec(pipeline.transformer_config, title="SD3.5 narrow", side=side)
    write_sai(single, pipeline.parts, metadata=spec, dtype=STORED)
    return folder, single


def _write_folder(folder: Path, pipeline: Pipeline, tokenizers: Path) -> None:
    """As `write_pipeline` does it, but T5 in several files."""
    parts = dict(pipeline.parts)
    t5 = parts.pop("t5")
    a_file = trees.count(t5[0]) * np.dtype(STORED).itemsize // T5_FILES
    write_parts(folder, parts, sample_size=pipeline.sample_size, dtype=STORED)
    write_parts(folder, {"t5": t5}, dtype=STORED, max_shard_bytes=a_file)
    write_frame(folder, schedule=pipeline.schedule, with_t5=True, tokenizers_from=tokenizers)


def _pipeline(narrow: Narrow, clip_vocabulary: int, t5_vocabulary: int) -> Pipeline:
    text = TextConfig(
        _clip(SD3_TEXT.clip_l, clip_vocabulary, heads=1),
        _clip(SD3_TEXT.clip_g, clip_vocabulary, heads=2),
        T5Config(t5_vocabulary, width=256, depth=2, heads=2, head_width=64, hidden=512),
    )
    transformer = dataclasses.replace(
        TRUE,
        depth=narrow.depth,
        dual=narrow.dual,
        heads=narrow.heads,
        position_size=narrow.position_size,
        text_width=text.t5.width,
        pooled_width=text.pooled_width,
    )
    vae = dataclasses.replace(SD3_VAE, channels=narrow.channels, groups=narrow.groups)
    table = position_table(narrow.position_size, transformer.width)
    return Pipeline(
        transformer=_random(abstract_transformer(transformer), 0) | {"position": np.asarray(table)},
        transformer_config=transformer,
        vae=_random(abstract_vae(vae), 1),
        vae_config=vae,
        text=_random(abstract_text(text), 2),
        text_config=text,
    )


def _clip(true: CLIPConfig, vocabulary: int, *, heads: int) -> CLIPConfig:
    width = 64 * heads
    return dataclasses.replace(
        true,
        vocabulary=vocabulary,
        width=width,
        heads=heads,
        hidden=4 * width,
        depth=2,
        projection=width if true.projection else 0,
    )


def _random(abstract: Params, seed: int) -> Params:
    """Weights of about an initialiser's sizes; no layer is left at zero, where it would be idle."""
    random = np.random.default_rng(seed)

    def fill(path: str, shape: tuple[int, ...]) -> np.ndarray:
        mean, std = (1.0, 0.02) if path.endswith("scale") else (0.0, 0.05)
        return (mean + std * random.normal(size=shape)).astype(np.float32)

    return trees.unflatten({p: fill(p, leaf.shape) for p, leaf in trees.flatten(abstract).items()})
