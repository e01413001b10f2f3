"""A student while it trains: pictures of fixed prompts, the teacher beside it; and its judge."""

import contextlib
import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from flashjax.data.prompts import read_prompts
from flashjax.data.samples import Samples, Unreadable
from flashjax.data.tokenizers import Tokenizer
from flashjax.evaluate.grids import grid
from flashjax.evaluate.judge import Compared, Figure
from flashjax.evaluate.report import reduced
from flashjax.evaluate.sample import Sampler, draw_noise
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.stages.drawing import Studio, fetched, filled, make_studio
from flashjax.stages.evaluate import open_unseen
from flashjax.stages.model import home_of, open_model
from flashjax.stages.registry import open_judges, open_samples
from flashjax.stages.setting import Setting
from flashjax.types import InputError, Params

SHOWN = 8  # prompts, or the next more that split over the devices
Draw = Callable[[Params], Mapping[str, np.ndarray]]


def sampled(config: ConfigDict, workdir: Path, setting: Setting) -> Draw:
    """`draw(weights) -> images by name`, uint8 "h w 3": the student's grid under the teacher's.

    The networks that drawing needs and training does not are read now, the teacher draws when its
    grid is first shown: neither waits for the other. InputError where no caption can be drawn.
    """
    studio, tokenizer = open_studio(config, workdir, setting)
    count = -(-SHOWN // studio.rows) * studio.rows
    prompts = fixed_prompts(config, workdir, count)
    tokens, noise = tokenizer(prompts), draw_noise(config.evaluate.seed, count, studio.shape)
    student = studio.program(student_grid(config, studio))
    guided = studio.program(teacher_grid(config, studio))
    reference = functools.cache(lambda: fetched(guided(setting.frozen.teacher, tokens, noise)))

    def draw(weights: Params) -> Mapping[str, np.ndarray]:
        pictures = fetched(student(studio.place(weights), tokens, noise))
        rows = [np.stack(reduced(shown[:SHOWN])) for shown in (reference(), pictures)]
        return {"teacher above student": grid(np.stack(rows))}

    return draw


def judging(
    config: ConfigDict, workdir: Path, setting: Setting, count: int
) -> Callable[[Params], Figure]:
    """`judge(weights)`: what promises are made of, of `count` captions that no report draws.

    Every process judges the same pictures. InputError where nobody judges, or captions are too few.
    """
    unseen = open_unseen(config, workdir)
    prompts = unseen.more[:count]
    if len(prompts) < count:
        raise InputError(
            f"job.judged={count}: {len(prompts)} captions are held back beside the "
            f"{config.evaluate.samples} that are reported: lower it, or raise data.validation"
        )
    compared = Compared(unseen.others, None, workdir / "data" / "features")
    judges = open_judges(config.evaluate.judges[:1], home_of(config), compared, prompts)
    if not judges:
        raise InputError("job.judge_steps: evaluate.judges names nobody who can judge here")
    studio, tokenizer = open_studio(config, workdir, setting)
    tokens, noise = tokenizer(prompts), draw_noise(config.evaluate.seed, count, studio.shape)
    sampler = student_grid(config, studio)
    student = studio.program(sampler)
    chunk = studio.chunk(config.evaluate.chunk, sampler, tokens)
    rows = filled(count, chunk, studio.rows)

    def judge(weights: Params) -> Figure:
        placed = studio.place(weights)
        drawn = [
            fetched(student(placed, jax.tree.map(operator.itemgetter(row), tokens), noise[row]))
            for row in rows
        ]
        return judges[0].judge(np.concatenate(drawn)[:count], prompts)[0]

    return judge


def open_studio(config: ConfigDict, workdir: Path, setting: Setting) -> tuple[Studio, Tokenizer]:
    """Where a stage's own mesh draws; what training does not have of the model is read now."""
    more = ("vae",) if setting.pipeline.text else ("vae", "text")
    opened, tokenizer = open_model(workdir, setting.mesh, names=more)
    text = setting.pipeline.text or opened.text
    pipeline = dataclasses.replace(setting.pipeline, vae=opened.vae, text=text)
    return make_studio(config, setting.mesh, pipeline, tokenizer([""])), tokenizer


def student_grid(config: ConfigDict, studio: Studio) -> Sampler:
    """How the student draws."""
    return Sampler(tuple(student_sigmas(config.student.steps, studio.pipeline.shift).tolist()))


def teacher_grid(config: ConfigDict, studio: Studio) -> Sampler:
    """How the teacher draws: in all its steps, guided."""
    pipeline, steps = studio.pipeline, config.evaluate.teacher_steps
    sigmas = sampler_sigmas(steps, pipeline.schedule, pipeline.tokens)
    return Sampler(tuple(sigmas.tolist()), config.evaluate.guidance_scale)


def fixed_prompts(config: ConfigDict, workdir: Path, count: int) -> list[str]:
    """The first captions that `evaluate` draws, again from the first where they are fewer."""
    if file := config.evaluate.get("prompts", ""):
        found = read_prompts(file)[:count]
    else:
        held = open_samples(config, workdir / "data")["validation"]
        found = list(itertools.islice(_readable(held), count))
    if not found:
        raise InputError("job.sample_steps: no caption is held back; give evaluate.prompts=FILE")
    return [found[number % len(found)] for number in range(count)]


def _readable(samples: Samples) -> Iterator[str]:
    """Captions; those of broken pictures are left out, as `evaluate` does."""
    for index in range(len(samples)):
        with contextlib.suppress(Unreadable):
            yield samples[index].caption
