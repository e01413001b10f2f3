"""The model as every stage opens it: configs and tokenizers of its source, weights from Orbax."""

import dataclasses
import functools
from importlib.resources import files
from pathlib import Path

from ml_collections import ConfigDict

from flashjax.checkpoint import load_params
from flashjax.convert.folder import Pipeline, read_pipeline
from flashjax.data.tokenizers import Tokenizer, load_tokenizers
from flashjax.types import InputError, Params

PACKAGED = {"nano": "assets/nano"}


def source_of(config: ConfigDict) -> Path:
    """The teacher's folder: a path, or the name of a teacher that comes with the package.

    InputError if no pipeline is there.
    """
    source = config.teacher.source
    named = source in PACKAGED
    folder = Path(str(files("flashjax"))) / PACKAGED[source] if named else Path(source)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"teacher.source={source}: {folder} holds no pipeline; train one with `flashjax teach` "
            f"or give a diffusers folder"
        )
    return folder


@functools.cache
def open_source(folder: Path) -> tuple[Pipeline, Tokenizer]:
    """The pipeline of a folder and its tokenizer, read once."""
    return read_pipeline(folder), load_tokenizers(folder)


def open_model(config: ConfigDict, workdir: Path) -> tuple[Pipeline, Tokenizer]:
    """The imported teacher: its weights from the workdir, its configs from its source."""
    pipeline, tokenizer = open_source(source_of(config))
    params = load_params(workdir / "import" / "params")
    return dataclasses.replace(pipeline, **params), tokenizer


def student_of(workdir: Path, stage: str) -> Params:
    """The student that a stage made, on the first device."""
    return load_params(workdir / stage / "params")
