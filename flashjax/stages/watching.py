"""Pictures of a student while it trains: fixed prompts from fixed noise, the teacher beside it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flashjax.data.prompts import read_prompts
from flashjax.evaluate.grids import grid
from flashjax.evaluate.report import reduced
from flashjax.evaluate.sample import Sampler, draw_noise
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.stages.drawing import Studio, fetched, make_studio
from flashjax.stages.model import open_model
from flashjax.stages.registry import open_samples
from flashjax.stages.setting import Setting
from flashjax.types import InputError, Params

SHOWN = 8  # prompts, or the next more that split over the devices
Draw = Callable[[Params], Mapping[str, np.ndarray]]


def sampled(config: ConfigDict, workdir: Path, setting: Setting) -> Draw:
    """`draw(weights) -> images by name`, uint8 "h w 3": the student's grid under the teacher's.

    The networks that drawing needs and training does not are read now. InputError where no caption
    can be drawn.
    """
    more = ("vae",) if setting.pipeline.text else ("vae", "text")
    opened, tokenizer = open_model(workdir, setting.mesh, names=more)
    text = setting.pipeline.text or opened.text
    pipeline = dataclasses.replace(setting.pipeline, vae=opened.vae, text=text)
    studio = make_studio(config, setting.mesh, pipeline, tokenizer([""]))
    count = -(-SHOWN // studio.rows) * studio.rows
    prompts = fixed_prompts(config, workdir, count)
    tokens, noise = tokenizer(prompts), draw_noise(config.evaluate.seed, count, studio.shape)
    student = studio.program(student_grid(config, studio))
    guided = studio.program(teacher_grid(config, studio))
    reference = fetched(guided(setting.frozen.teacher, tokens, noise))

    def draw(weights: Params) -> Mapping[str, np.ndarray]:
        pictures = fetched(student(studio.place(weights), tokens, noise))
        rows = [np.stack(reduced(shown[:SHOWN])) for shown in (reference, pictures)]
        return {"teacher above student": grid(np.stack(rows))}

    return draw


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
    file = config.evaluate.prompts
    held: Any = [] if file else open_samples(config, workdir / "data")["validation"]
    found = read_prompts(file)[:count] if file else [held[i][1] for i in range(len(held))[:count]]
    if not found:
        raise InputError("job.sample_steps: no caption is held back; give evaluate.prompts=FILE")
    return [found[number % len(found)] for number in range(count)]
