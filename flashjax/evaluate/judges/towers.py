"""A CLIP, whose two towers put pictures and prompts into one space.

Letters: n pictures or prompts, p projected width.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.convert.vit import TwoTowers
from flashjax.data.prompts import shortened
from flashjax.data.tokenizers import SHOWN, encode, load_clip_tokenizer
from flashjax.evaluate.judges.features import Extractor
from flashjax.evaluate.judges.pixels import clip_pixels
from flashjax.models.clip import CLIPText
from flashjax.models.layers import apply
from flashjax.models.vit import ViT
from flashjax.types import InputError, Params

_log = logging.getLogger(__name__)


class Towers:
    """`pictures(images)` and `texts(prompts)` are unit vectors, float32 "n p".

    `scale` is what the model multiplies their products with. The texts of the last prompts are
    kept: many samplers draw the same ones.
    """

    def __init__(self, model: TwoTowers, folder: Path) -> None:
        self.pictures, self.scale = _seeing(model), model.scale
        self.config = model.vision_config
        self._read, self._length = _reading(model), model.text_config.length
        self._tokenizer = load_clip_tokenizer(folder)
        end, last = self._tokenizer.eos_token_id, model.text_config.vocabulary - 1
        if end != last:
            raise InputError(
                f"{folder}: texts end with token {end} by the tokenizer, {last} by the model; "
                "give the tokenizer of this model"
            )
        self._texts = functools.lru_cache(maxsize=1)(lambda prompts: self._read(self._ids(prompts)))

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Unit vectors of prompts; the ends of those that are too long are cut, and it is said."""
        return self._texts(tuple(prompts))

    def _ids(self, prompts: tuple[str, ...]) -> np.ndarray:
        texts = [shortened(prompt) for prompt in prompts]
        ids, cut = encode(self._tokenizer, texts, length=self._length)
        if any(cut):
            _log.warning(
                "%d of %d prompts are judged by their first %d tokens; the first is %r",
                sum(cut),
                len(prompts),
                self._length,
                prompts[cut.index(True)][:SHOWN],
            )
        return ids


def _seeing(model: TwoTowers) -> Extractor:
    config = model.vision_config

    def forward(params: Params, pixels: Array) -> Array:
        return _unit(apply(ViT(config), params, pixels))

    prepare = lambda image: clip_pixels(image, config.side)
    return Extractor(forward, model.vision, prepare=prepare, name="clip", settings=f"{config}")


def _reading(model: TwoTowers) -> Extractor:
    def forward(params: Params, ids: Array) -> Array:
        _, pooled = apply(CLIPText(model.text_config), params, ids)
        return _unit(pooled)

    return Extractor(forward, model.text, prepare=np.asarray, name="clip-text")


def _unit(vectors: Array) -> Array:
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
