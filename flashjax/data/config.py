"""The section `data` of a config: what a run learns from, and how it is made ready."""

import dataclasses
import os
from typing import Annotated, Literal

from flashjax.types import Count, InputError, Positive, Range, Seed, Weight, Whole, parts_of

REFUSE = "refuse"


@dataclasses.dataclass(frozen=True)
class DrawConfig:
    """Pictures that the teacher draws for captions that have none.

    Attributes:
      steps: of its sampler; with 0 nothing is drawn, and captions stay alone.
      guidance_scale: how far it is guided.
      batch_size: pictures at a time, on all devices together.
    """

    steps: Whole = 0
    guidance_scale: Weight = 4.0
    batch_size: Count = 64


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a run learns from.

    Attributes:
      source: a folder, a pattern of tars, a manifest, a dataset's name, a file of prompts, a
        task; on this machine or at an address (gs://, s3://). Or several, with commas between.
      weights: of several sources, how often samples of each are seen; () is by their numbers.
        What is held out of several is seen once each.
      seed: of the split, of crops, and of what a task makes.
      train: at most so many samples of each source to learn from; 0 is all.
      validation: at most so many that are held out: of what is given, never more than a fifth.
      empty_caption: what stands for a caption that is missing; "refuse" is an error.
      captions: which one is learnt where a picture has several; one at random is of the seed.
        With "none" pictures are learnt alone, as a teacher draws them that is told nothing.
      draw: what the teacher draws for the captions of a file of prompts, before all else.
      size: pixels along each side of a square picture, whose area all buckets have; 0 is the
        model's own.
      crop: where the longer side is cut.
      upscale: the most that a picture may be enlarged; smaller ones are left out.
      smallest: a bucket with fewer samples is left out.
      text: whether captions are kept as tokens or as what the text encoders make of them.
      dtype: of latents and embeddings as they are kept.
    """

    source: str | tuple[str, ...]
    weights: tuple[Positive, ...] = ()
    seed: Seed = 0
    train: Whole = 0
    validation: Whole = 0
    empty_caption: str = REFUSE
    captions: Literal["first", "random", "none"] = "first"
    draw: DrawConfig = DrawConfig()
    size: Whole = 0
    crop: Literal["centre", "random"] = "centre"
    upscale: Annotated[float, Range(1)] = 1.25  # at 1 none is enlarged
    smallest: Count = 1
    text: Literal["tokens", "embeddings"] = "tokens"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.size % 64:
            raise InputError(f"size={self.size}: give a multiple of 64 pixels")
        if not self.sources or not all(self.sources):
            raise InputError("source is empty: name what to learn from")
        if self.weights and len(self.weights) != len(self.sources):
            raise InputError(
                f"weights={self.weights}: give one for each of {len(self.sources)} source(s)"
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """All sources, where there is one as well; a path with a comma that is there is one."""
        if not isinstance(self.source, str):
            return self.source
        if os.path.exists(self.source):  # no error for text longer than a path may be
            return (self.source,)
        return tuple(parts_of(self.source))
