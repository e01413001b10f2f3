"""`quantize`: formats that are made of more than the weights: prompts, a size, training."""

import argparse
import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flashjax.convert.transformer import cropped_position
from flashjax.data.prompts import read_prompts
from flashjax.quantize.calibrate import Moments, second_moments, velocity_errors
from flashjax.quantize.containers.gguf_export import UNCALIBRATED, Calibration
from flashjax.quantize.formats import CALIBRATED, MIXED, TUNED, Model
from flashjax.quantize.mixing import mixed
from flashjax.tools.quantize.student import Student
from flashjax.tools.quantize.tune import tuned

COMPARED = 32  # of the captions to calibrate on: those that say which weights have eight bits


def variants(
    options: argparse.Namespace, names: list[str], model: Model, student: Student | None
) -> Iterator[tuple[str, Model, Calibration]]:
    """Every format with the weights that it is made of, and what is known of them."""
    if not options.calibrate or student is None:
        yield from ((name, model, UNCALIBRATED) for name in names)
        return
    captions = read_prompts(options.calibrate)
    moments = functools.cache(lambda: second_moments(*student.way(captions, seed=options.seed)))
    for name in names:
        weights, known = model, UNCALIBRATED
        if name == CALIBRATED:
            known = Calibration(moments(), {})
        elif name == MIXED:
            known = mix(options, model, student, captions, moments())
        elif name == TUNED:
            weights = tuned_model(options, model, student, captions)
        yield name, weights, known


def mix(
    options: argparse.Namespace,
    model: Model,
    student: Student,
    captions: list[str],
    moments: Moments,
) -> Calibration:
    """Which weights have eight bits, by how far each moves the student's velocity."""
    errors = velocity_errors(*student.way(captions[:COMPARED], seed=options.seed))
    return mixed(
        model.tensors,
        model.config,
        student.pipeline.transformer,
        lambda params: sum(10 ** (-ratio / 10) for ratio in errors(params)),
        moments=moments,
        size_bytes=int(1e6 * options.size_mb),
    )


def tuned_model(
    options: argparse.Namespace, model: Model, student: Student, captions: list[str]
) -> Model:
    """The model after training on Q6_K's grid."""
    tensors = tuned(
        student,
        model.tensors,
        captions,
        scheme="q6_k",
        steps=options.tune,
        seed=options.seed,
        out=Path(options.out),
    )
    if options.position:
        tensors = cropped_position(tensors, options.position)
    return replace(model, tensors=tensors)
