"""The model that is quantised, as it draws: what calibrating and measuring ask of it."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np

from flashjax.convert.adapters import Lora, with_loras
from flashjax.convert.pipeline import Pipeline, Place, as_stored
from flashjax.data.prompts import read_prompts
from flashjax.data.tokenizers import Tokenizer, check_fits, load_tokenizers
from flashjax.evaluate.judge import Compared, Judge
from flashjax.evaluate.sample import draw_noise
from flashjax.evaluate.unseen import Unseen, halves
from flashjax.flow.schedule import student_sigmas
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.text import encode_text
from flashjax.quantize.calibrate import Chunks
from flashjax.sources import home_of, open_pipeline
from flashjax.stages.model import TOKENIZERS, open_stage, packaged
from flashjax.stages.registry import open_judges, task_of_pipeline
from flashjax.types import Cond, InputError, Params

CHUNK = 50  # captions at a time: what is encoded, measured or drawn of them takes memory
Way: TypeAlias = tuple[MMDiTConfig, Params, Chunks, list[float]]


@dataclass(frozen=True)
class Student:
    """A model as it is stored, its tokenizer, and the grid of levels that it is drawn with.

    `tokenizers` is the folder that has those of the tokenizer.
    """

    pipeline: Pipeline
    tokenizer: Tokenizer
    tokenizers: Path
    sigmas: tuple[float, ...]

    def noise(self, seed: int, count: int) -> np.ndarray:
        """The noise that pictures start from."""
        size, channels = self.pipeline.sample_size, self.pipeline.transformer_config.channels
        return draw_noise(seed, count, (size, size, channels))

    def way(self, captions: Sequence[str], *, seed: int) -> Way:
        """All that it takes to draw the captions step by step, CHUNK of them at a time."""
        pipeline = self.pipeline
        encode = jax.jit(lambda text, tokens: encode_text(pipeline.text_config, text, tokens))

        def chunks() -> Iterator[tuple[Cond, np.ndarray]]:
            tokens, noise = self.tokenizer(list(captions)), self.noise(seed, len(captions))
            for start in range(0, len(captions), CHUNK):
                chosen = slice(start, start + CHUNK)
                part = jax.tree.map(operator.itemgetter(chosen), tokens)
                yield jax.device_get(encode(pipeline.text, part)), noise[chosen]

        return pipeline.transformer_config, pipeline.transformer, chunks(), list(self.sigmas)


def open_student(
    source: Path,
    *,
    base: Path | None,
    steps: int,
    loras: Sequence[Lora] = (),
    place: Place = as_stored,
) -> Student:
    """The model of a source, with what it lacks from `base`, and with LoRAs added."""
    if base is None and (found := open_stage(source)):
        (pipeline, tokenizer), home = found, source.parent / "import" / TOKENIZERS
        if loras:
            pipeline = pipeline.with_parts(with_loras(pipeline.parts, loras, place=place))
    else:
        home = home_of(source, base)
        tokenizer = load_tokenizers(home)
        pipeline = open_pipeline(source, base=base, place=place, loras=loras)
        text = pipeline.text_config
        check_fits(tokenizer, text.vocabularies, str(home), places=text.places)
    sigmas = tuple(student_sigmas(steps, pipeline.shift).tolist())
    return Student(pipeline, tokenizer, home, sigmas)


@dataclass(frozen=True)
class Judging:
    """What a report draws, who measures it, and what it is compared with.

    Only a pipeline that was made for a task of ours has `judges` and `unseen` samples.
    """

    captions: list[str]
    judges: Sequence[Judge]
    unseen: Unseen | None


def open_judging(student: Student, *, file: str | None, samples: int, seed: int) -> Judging:
    """The captions of `file`, or of `samples` unseen ones of the task that the student is made for.

    InputError for a student of no task of ours without a file.
    """
    task = task_of_pipeline(student.pipeline, student.tokenizer)
    if task is None:
        if not file:
            raise InputError("--report: no captions are known for this model, give --measure FILE")
        return Judging(read_prompts(file), (), None)
    unseen = halves(task.unseen(2 * samples, seed), samples, side=task.side)
    captions = read_prompts(file) if file else unseen.captions
    judges = open_judges([task.name], packaged(task.pipeline), Compared(unseen.others), captions)
    return Judging(captions, judges, unseen)
