"""`evaluate`: every sampler of a run on the same captions and noise, timed, and judged."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flashjax.convert.folder import read_transformer
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.transformer import transformer_from
from flashjax.data.cache import read_cache
from flashjax.data.prompts import read_prompts
from flashjax.data.tokenizers import Tokenizer
from flashjax.evaluate.judge import Figure, Judge, figures_of, told
from flashjax.evaluate.sample import Drawn, Sample, Sampler, draw, draw_noise, make_sample
from flashjax.evaluate.unseen import Unseen, halves
from flashjax.flow.schedule import sampler_sigmas, student_sigmas
from flashjax.quantize.containers.gguf import open_gguf
from flashjax.stages.export import FOLDER
from flashjax.stages.model import home_of, open_model, student_of
from flashjax.stages.registry import open_judges, open_samples
from flashjax.stages.setting import at_its_size
from flashjax.stages.stage import run_stage, write_json
from flashjax.types import InputError, Params

log = logging.getLogger(__name__)

BITS = {"f16": "16-bit", "q8_0": "8-bit", "q6_k": "6-bit"}


@dataclasses.dataclass(frozen=True)
class Contender:
    """One row of the comparison: whose weights, on which grid."""

    name: str
    group: str
    note: str
    sampler: Sampler
    transformer: Params


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws, judges and times; keeps the figures and the first pictures of every sampler."""

    def body(folder: Path) -> dict[str, Any]:
        pipeline, tokenizer = open_model(workdir)
        pipeline = at_its_size(config, pipeline)
        unseen = open_unseen(config, workdir)
        file = config.evaluate.prompts
        prompts = read_prompts(file) if file else unseen.captions
        judges = open_judges(config.evaluate.judges, home_of(config), unseen.others, prompts)
        if not judges:
            log.info("evaluate.judges names nobody: pictures are drawn and timed, not measured")
        shown = min(config.evaluate.shown, len(prompts))
        rows, pictures = [], []
        if unseen.images is not None:
            real = {"name": "real pictures", "group": "Reference", "note": "unseen"}
            rows.append(real | measure(judges, unseen.images, unseen.captions))
            pictures.append(unseen.images[:shown])
        programs = functools.cache(lambda sampler: make_sample(pipeline, sampler))
        for contender in contenders(config, workdir, pipeline):
            program = programs(contender.sampler)  # one compilation for all weights on one grid
            drawn = draw_all(config, pipeline, tokenizer, contender, program, prompts)
            row = describe(contender) | measure(judges, drawn.images, prompts)
            rows.append(row | {"seconds_per_image": drawn.seconds_per_image})
            pictures.append(drawn.images[:shown])
            log_row(rows[-1])
        np.save(folder / "pictures.npy", np.stack(pictures), allow_pickle=False)
        write_json(folder / "captions.json", prompts[:shown])
        return {"rows": rows, "notes": [judge.note for judge in judges]}

    return run_stage(
        "evaluate",
        {**config.evaluate, "student": config.student},
        workdir,
        body,
        inputs={name: workdir / name for name in ("guide", "match", "export", "quantize")},
        seed=config.seed,
    )


def open_unseen(config: ConfigDict, workdir: Path) -> Unseen:
    """Captions of the first validation samples, their real pictures, and the other pictures."""
    samples = config.evaluate.samples
    held = open_samples(config, workdir / "data")["validation"]
    if config.evaluate.prompts and not len(held):  # prompts of their own, nothing to compare with
        return Unseen([], None, None)
    side = read_cache(workdir / "prepare").made["side"]
    try:
        return halves(held, samples, side=side)
    except InputError as error:
        raise InputError(f"evaluate.samples={samples}: {error}") from error


def measure(judges: Sequence[Judge], images: np.ndarray, prompts: list[str]) -> dict[str, Any]:
    """What all judges say of pictures of these prompts, as JSON."""
    figures = [dataclasses.asdict(figure) for figure in figures_of(judges, images, prompts)]
    return {"figures": figures, "samples": len(images)}


def contenders(config: ConfigDict, workdir: Path, pipeline: Pipeline) -> Iterator[Contender]:
    """The teacher in full and cut short, and the student after every stage and precision."""
    scale, steps = config.evaluate.guidance_scale, config.student.steps
    schedule, shift, tokens = pipeline.schedule, pipeline.shift, pipeline.tokens
    full = config.evaluate.teacher_steps
    teacher = pipeline.transformer

    def cut(steps: int) -> Sampler:
        return Sampler(tuple(sampler_sigmas(steps, schedule, tokens).tolist()), scale)

    def student(steps: int) -> Sampler:
        return Sampler(tuple(student_sigmas(steps, shift).tolist()))

    few, half = f"{steps} steps", f"{steps // 2} steps"
    guided = f"guidance {scale}"
    yield Contender(f"teacher, {full} steps", "Reference", guided, cut(full), teacher)
    yield Contender(f"teacher, {few}", few, f"not distilled, {guided}", cut(steps), teacher)
    for stage in ("guide", "match"):
        params = student_of(workdir, stage)
        yield Contender(f"student after {stage}, {few}", few, "as trained", student(steps), params)
    merged, _ = read_transformer(workdir / "export" / FOLDER / "transformer")
    exported = f"exported, {config.export.dtype}"
    yield Contender(f"student after merge, {few}", few, exported, student(steps), merged)
    for scheme in config.quantize.schemes:
        params = read_quantized(workdir / "quantize" / f"student-{scheme}.gguf", pipeline)
        note = f"{BITS[scheme]}, GGUF {scheme.upper()}"
        yield Contender(f"student {BITS[scheme]}, {few}", few, note, student(steps), params)
    yield Contender(f"teacher, {half}", half, f"not distilled, {guided}", cut(steps // 2), teacher)
    yield Contender(f"student after merge, {half}", half, exported, student(steps // 2), merged)


def read_quantized(path: Path, pipeline: Pipeline) -> Params:
    """The transformer of a GGUF file, dequantised."""
    return transformer_from(open_gguf(path), pipeline.transformer_config, "sai")


def draw_all(
    config: ConfigDict,
    pipeline: Pipeline,
    tokenizer: Tokenizer,
    contender: Contender,
    program: Sample,
    captions: list[str],
) -> Drawn:
    """The contender's pictures of all captions, from the same noise as everyone's."""
    side, channels = pipeline.sample_size, pipeline.transformer_config.channels
    params = {"transformer": contender.transformer, "vae": pipeline.vae, "text": pipeline.text}
    return draw(
        program,
        params,
        tokenizer(captions),
        tokenizer([""]),
        draw_noise(config.evaluate.seed, len(captions), (side, side, channels)),
        chunk=config.evaluate.chunk,
    )


def describe(contender: Contender) -> dict[str, Any]:
    """The row's words and costs."""
    return {
        "name": contender.name,
        "group": contender.group,
        "note": contender.note,
        "steps": contender.sampler.steps,
        "passes": contender.sampler.passes,
    }


def log_row(row: dict[str, Any]) -> None:
    """One line per sampler as it is measured."""
    figures = told([Figure(**figure) for figure in row["figures"]])
    log.info("%-32s %s  %.4f s/image", row["name"], figures, row["seconds_per_image"])
