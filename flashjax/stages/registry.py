"""The one door for tasks: what `data.source` and `evaluate.judges` name, behind the seams."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.convert.pipeline import Pipeline
from flashjax.data.samples import Samples
from flashjax.data.tokenizers import Tokenizer
from flashjax.evaluate.judge import Judge
from flashjax.tasks import NAMES, open_task, task_of
from flashjax.tasks.task import Task
from flashjax.types import InputError


def open_samples(config: ConfigDict, folder: Path) -> dict[str, Samples]:
    """The samples of a config by split; what is made for them is kept in `folder`."""
    task = task_named(config)
    return task.open(folder, configs.section(config, "data", task.settings))


def task_named(config: ConfigDict) -> Task:
    """The task of `data.source`."""
    return _task(config.data.get("source", ""), "data.source")


def task_of_pipeline(pipeline: Pipeline, tokenizer: Tokenizer) -> Task | None:
    """The task that a pipeline was made for, by the size of its pictures and its words."""
    return task_of(pipeline.sample_size * pipeline.vae_config.factor, tokenizer.words)


def open_judges(
    names: Sequence[str], pipeline: Path, real: np.ndarray | None, prompts: Sequence[str]
) -> list[Judge]:
    """The judges `names`, with weights from the pipeline's folder. InputError for what they lack.

    `real` are pictures uint8 "n H W 3" to compare with, `prompts` what will be judged.
    """
    judges = []
    for name in names:
        task = _task(name, "evaluate.judges")
        judge = task.judge.open(task.weights(pipeline), real)
        judge.check(prompts)
        judges.append(judge)
    return judges


def check_data(config: ConfigDict) -> None:
    """InputError for data that is not there or a section that does not describe it."""
    configs.section(config, "data", task_named(config).settings)


def check_judges(config: ConfigDict) -> None:
    """InputError for a judge that nobody knows."""
    for name in config.evaluate.judges:
        _task(name, "evaluate.judges")


def _task(name: str, key: str) -> Task:
    if name not in NAMES:
        raise InputError(f"{key}: {name!r} is unknown: choose of {', '.join(NAMES)}")
    return open_task(name)
