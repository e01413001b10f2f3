"""`export --source`: any checkpoint to PyTorch formats, tensor by tensor and bit by bit."""

import argparse
import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from flashjax.convert import folder as folders
from flashjax.convert.adapters import Lora, open_loras, with_loras
from flashjax.convert.outputs import check_free, is_file_name, keep_record, places
from flashjax.convert.pipeline import Parts, assemble
from flashjax.convert.sai import model_spec, write_sai
from flashjax.convert.table import AS_STORED, FLOAT32
from flashjax.convert.writing import MAX_SHARD_BYTES, replacing, stored_as
from flashjax.flow.schedule import Schedule
from flashjax.sources import (
    base_folder,
    factor_of,
    home_of,
    kind_of,
    open_file,
    read_parts,
    sample_size_of,
)
from flashjax.stages.model import TOKENIZERS, open_stage
from flashjax.types import InputError, check_text

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
TITLE = "converted by flashjax"
LARGEST_HALF = 65504.0  # of float16
LARGEST_GB = 1e6  # no disk holds more
FORMATS = {"diffusers": "diffusers", "sai": "model.safetensors"}  # format: name under --out

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Writes every network of the source in every format, and prints where."""
    out = Path(options.out)
    default = ["sai"] if is_file_name(out) else list(FORMATS)
    formats = [name.strip() for name in options.format.split(",")] if options.format else default
    paths = convert(
        Path(options.source),
        out,
        formats=formats,
        force=options.force,
        base=base_folder(options.base),
        dtype=DTYPES[options.dtype] if options.dtype else None,
        title=options.title,
        loras=open_loras(options.lora),
        max_shard_bytes=shard_bytes(options.shard_gb, formats),
    )
    print("\n".join(map(str, paths)))


def shard_bytes(gigabytes: float | None, formats: Sequence[str]) -> int:
    """The most that a file of a folder may take. InputError for no size, and where none is cut."""
    if gigabytes is None:
        return MAX_SHARD_BYTES
    if not 0 < gigabytes < LARGEST_GB:
        raise InputError(f"--shard_gb {gigabytes}: give a number above 0, below {LARGEST_GB:g}")
    if "diffusers" not in formats:
        raise InputError("--shard_gb is for --format diffusers: a single file is not cut")
    return math.ceil(gigabytes * 1e9)


def convert(
    source: Path,
    out: Path,
    *,
    formats: Sequence[str],
    force: bool = False,
    base: Path | None = None,
    dtype: Any = None,
    title: str = "",
    loras: Sequence[Lora] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Writes every network of `source`, with LoRAs added, in every format, as `out` says.

    Returns their paths. InputError for a path that holds what is not ours; `force` gives files
    away.
    """
    unknown = sorted(set(formats) - FORMATS.keys())
    if unknown:
        raise InputError(f"--format {unknown[0]} is unknown: choose of {', '.join(FORMATS)}")
    paths = places(out, [FORMATS[name] for name in formats])
    check_free(paths, force=force, ours=False, read=[source, base or source])
    check_text(title, "--title")
    if title and "sai" not in formats:
        raise InputError("--title is for --format sai: a folder has none")
    if "diffusers" in formats and kind_of(source) == "pipeline":
        folders.settings(source)
        folders.check_tokenizers(source, with_t5=folders.has_t5(source))
    parts, frame = opened(source, base)
    if loras:  # what is narrowed here no writer could keep wide, or name
        parts = with_loras(parts, loras, place=lambda _: FLOAT32 if dtype else AS_STORED)
    log.info("read %s", ", ".join(parts))
    config, factor = parts["transformer"][1], factor_of(parts, base)
    size = frame.size if frame else sample_size_of(source, config, factor=factor, base=base)
    check_range(parts, dtype)
    for name, path in zip(formats, paths, strict=True):
        if name == "sai":
            same = not loras and dtype is None
            metadata = metadata_of(source, parts, title, side=size * factor, same=same)
            write_sai(path, parts, metadata=metadata, dtype=dtype)
        else:
            write_folder(path, parts, frame, size, dtype=dtype, max_shard_bytes=max_shard_bytes)
        keep_record(path)
    return paths


@dataclasses.dataclass(frozen=True)
class Frame:
    """What makes networks a whole pipeline: schedule, side of the latents, tokenizers' folder."""

    schedule: Schedule
    size: int
    tokenizers: Path


def opened(source: Path, base: Path | None) -> tuple[Parts, Frame | None]:
    """The networks of a source as stored; and its frame, where it is a whole pipeline."""
    if base is None and (found := open_stage(source)):
        pipeline, tokenizers = found[0], source.parent / "import" / TOKENIZERS
        return pipeline.parts, Frame(pipeline.schedule, pipeline.sample_size, tokenizers)
    known = folders.read_configs(base) if base else {}
    parts = read_parts(source, known=known, place=lambda _: AS_STORED)
    if kind_of(source) != "pipeline":
        return parts, None
    settings = folders.settings(home_of(source, base))
    return parts, Frame(settings["schedule"], settings["sample_size"], source)


def check_range(parts: Parts, dtype: Any) -> None:
    """InputError for a weight that is none in `dtype`, before a gigabyte is written."""
    if dtype is None or np.dtype(dtype) != np.float16:
        return
    for name, (params, config) in parts.items():
        if max(float(_largest(leaf)) for leaf in jax.tree.leaves(params)) > LARGEST_HALF:
            _, _, tensors = folders.network(name, params, config)
            for key in tensors:
                stored_as(dtype, tensors[key], f"{name}: tensor {key} {tensors.shapes[key]}")


@jax.jit
def _largest(leaf: jax.Array) -> jax.Array:
    return jnp.abs(leaf).max().astype(jnp.float32)


def metadata_of(
    source: Path, parts: Parts, title: str, *, side: int, same: bool
) -> Mapping[str, str]:
    """The source's own where it is a single file, else the model's kind; and a `title`, if any.

    Hashes of tensors stay where these are the `same`.
    """
    if kind_of(source) == "single":
        own = {k: v for k, v in open_file(source).metadata.items() if same or "hash" not in k}
        names = {"modelspec.title", *({"title"} & own.keys())} if title else ()
        return {**own, **dict.fromkeys(names, title)}
    return model_spec(parts["transformer"][1], title=title or TITLE, side=side)


def write_folder(
    path: Path,
    parts: Parts,
    frame: Frame | None,
    size: int,
    *,
    dtype: Any,
    max_shard_bytes: int,
) -> None:
    """A whole pipeline's folder where there is a frame, else the folders of its networks."""
    how = {"dtype": dtype, "max_shard_bytes": max_shard_bytes}
    if frame:
        pipeline = assemble(parts, where=str(path), schedule=frame.schedule, sample_size=size)
        folders.write_pipeline(path, pipeline, tokenizers_from=frame.tokenizers, **how)
        return
    with replacing(path) as new:
        new.mkdir()
        folders.write_parts(new, parts, sample_size=size, **how)
