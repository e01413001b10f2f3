"""`export --source`: any checkpoint to PyTorch formats, tensor by tensor and bit by bit."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flashjax.convert import folder as folders
from flashjax.convert.adapters import Lora, open_loras
from flashjax.convert.pipeline import Parts, assemble
from flashjax.convert.sai import model_spec, write_sai
from flashjax.convert.table import AS_STORED, Placement
from flashjax.convert.writing import MAX_SHARD_BYTES, replacing
from flashjax.sources import LORA_FLAG, base_folder, kind_of, open_file, read_parts
from flashjax.types import InputError

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
FORMATS = {"diffusers": "diffusers", "sai": "model.safetensors"}  # format: name under --out

log = logging.getLogger(__name__)


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The flags of the verb where it works without a config."""
    verb.add_argument("--source", required=True, metavar="PATH", help="any checkpoint")
    verb.add_argument("--base", metavar="DIR", help="a pipeline's folder with the sizes it lacks")
    verb.add_argument("--lora", **LORA_FLAG)
    verb.add_argument("--out", required=True, metavar="DIR", help="where the formats go")
    verb.add_argument("--format", default="diffusers,sai", metavar="NAME[,NAME]")
    verb.add_argument("--dtype", choices=tuple(DTYPES), help="as stored by default")
    verb.add_argument("--title", default="converted by flashjax", help="in the single file")
    verb.add_argument("--shard_gb", type=float, default=MAX_SHARD_BYTES / 1e9, metavar="GB")


def run(options: argparse.Namespace) -> None:
    """Writes every network of the source in every format, and prints where."""
    paths = convert(
        Path(options.source),
        Path(options.out),
        formats=options.format.split(","),
        base=base_folder(options.base),
        dtype=DTYPES[options.dtype] if options.dtype else None,
        title=options.title,
        loras=open_loras(options.lora),
        max_shard_bytes=int(options.shard_gb * 1e9),
    )
    print("\n".join(map(str, paths)))


def convert(
    source: Path,
    out: Path,
    *,
    formats: Sequence[str],
    base: Path | None = None,
    dtype: Any = None,
    title: str = "",
    loras: Sequence[Lora] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Writes every network of `source`, with LoRAs added, under `out` in every format.

    Returns the formats' paths.
    """
    unknown = sorted(set(formats) - FORMATS.keys())
    if unknown:
        raise InputError(f"--format {unknown[0]} is unknown: choose of {', '.join(FORMATS)}")
    known = folders.read_configs(base) if base else {}
    # Products are added in float32, and rounded to the wanted dtype alone.
    placement = Placement(np.dtype(dtype)) if loras and dtype else AS_STORED
    parts = read_parts(source, known=known, place=lambda _: placement, loras=loras)
    log.info("read %s", ", ".join(parts))
    for name in formats:
        path = out / FORMATS[name]
        if name == "sai":
            write_sai(path, parts, metadata=metadata_of(source, parts, title), dtype=dtype)
        else:
            write_folder(path, parts, source, dtype=dtype, max_shard_bytes=max_shard_bytes)
    return [out / FORMATS[name] for name in formats]


def metadata_of(source: Path, parts: Parts, title: str) -> Mapping[str, str]:
    """The source's own where it is a single file, else the model's kind and title."""
    if kind_of(source) == "single":
        return open_file(source).metadata
    return model_spec(parts["transformer"][1], title=title, side=1024)


def write_folder(
    path: Path, parts: Parts, source: Path, *, dtype: Any, max_shard_bytes: int
) -> None:
    """A whole pipeline's folder where the source is one, else the folders of its networks."""
    if kind_of(source) == "pipeline":
        settings = folders.settings(source)
        pipeline = assemble(parts, where=str(source), **settings)
        folders.write_pipeline(
            path, pipeline, tokenizers_from=source, dtype=dtype, max_shard_bytes=max_shard_bytes
        )
        return
    with replacing(path) as new:
        new.mkdir()
        folders.write_parts(new, parts, dtype=dtype, max_shard_bytes=max_shard_bytes)
