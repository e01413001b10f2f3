"""The model that is quantised, as it draws: what calibrating and measuring ask of it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from flashjax.convert.adapters import Lora
from flashjax.convert.pipeline import Pipeline
from flashjax.data.tokenizers import Tokenizer, load_tokenizers
from flashjax.evaluate.sample import draw_noise
from flashjax.flow.schedule import student_sigmas
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.text import encode_text
from flashjax.sources import home_of, open_pipeline
from flashjax.tasks.digit_scenes.scenes import compose
from flashjax.types import Cond, Params

Way: TypeAlias = tuple[MMDiTConfig, Params, Cond, jax.Array, list[float]]


@dataclass(frozen=True)
class Student:
    """A model at 16 bits, its tokenizers, and the grid of levels that it is drawn with."""

    pipeline: Pipeline
    tokenizer: Tokenizer
    sigmas: tuple[float, ...]

    def noise(self, seed: int, count: int) -> np.ndarray:
        """The noise that pictures start from."""
        size, channels = self.pipeline.sample_size, self.pipeline.transformer_config.channels
        return draw_noise(seed, count, (size, size, channels))

    def way(self, captions: Sequence[str], *, seed: int) -> Way:
        """All that it takes to draw the captions step by step."""
        pipeline = self.pipeline
        encode = jax.jit(lambda text, tokens: encode_text(pipeline.text_config, text, tokens))
        cond = encode(pipeline.text, self.tokenizer(list(captions)))
        noise = jnp.asarray(self.noise(seed, len(captions)))
        sizes = pipeline.transformer_config
        return sizes, pipeline.transformer, cond, noise, list(self.sigmas)


def open_student(
    source: Path, *, base: Path | None, steps: int, loras: Sequence[Lora] = ()
) -> Student:
    """The model of a source, with what it lacks from `base`, and with LoRAs added."""
    pipeline = open_pipeline(source, base=base, loras=loras)
    tokenizer = load_tokenizers(home_of(source, base))
    return Student(pipeline, tokenizer, tuple(student_sigmas(steps, pipeline.shift).tolist()))


@dataclass(frozen=True)
class Scenes:
    """Scenes that no training saw: captions with their real pictures, and as many others."""

    captions: list[str]
    images: np.ndarray
    others: np.ndarray


@functools.cache
def unseen_scenes(count: int, *, seed: int) -> Scenes:
    """The first validation scenes of a seed."""
    examples = [compose(seed, index, "validation") for index in range(2 * count)]
    images = np.stack([example.image for example in examples])
    captions = [example.caption for example in examples[:count]]
    return Scenes(captions, images[:count], images[count:])
