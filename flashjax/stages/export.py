"""`export`: the merged student to a diffusers folder and to a single file with SD3's own keys.

A student that is told when it takes two steps at once is two networks that differ in one bias: the
other one is a transformer's folder of its own.
"""

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from ml_collections import ConfigDict

from flashjax.convert.folder import write_parts, write_pipeline
from flashjax.convert.sai import model_spec, write_sai
from flashjax.convert.writing import replacing
from flashjax.models.halved import HALF, told
from flashjax.stages.model import TOKENIZERS, open_networks, trained_student
from flashjax.stages.setting import at_its_size
from flashjax.stages.stage import run_stage
from flashjax.types import InputError

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
FOLDER, SINGLE, HALVED = "diffusers", "student.safetensors", "halved"


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return config.export.to_dict()


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Writes export/diffusers and export/student.safetensors; of a told student export/halved."""

    def body(folder: Path) -> dict[str, Any]:
        if config.export.dtype not in DTYPES:
            raise InputError(f"export.dtype={config.export.dtype}: choose one of {list(DTYPES)}")
        dtype = DTYPES[config.export.dtype]
        pipeline = at_its_size(config, open_networks(workdir, names=("vae", "text")))
        tokenizers = workdir / "import" / TOKENIZERS
        trained = trained_student(workdir, "merge")
        student = dataclasses.replace(pipeline, transformer=told(trained, halved=False))
        write_pipeline(folder / FOLDER, student, tokenizers_from=tokenizers, dtype=dtype)
        side = student.sample_size * student.vae_config.factor
        write_sai(
            folder / SINGLE,
            {name: student.parts[name] for name in ("transformer", "vae")},
            metadata=model_spec(student.transformer_config, title=config.export.title, side=side),
            dtype=dtype,
        )
        if HALF in trained:
            halved = {"transformer": (told(trained, halved=True), student.transformer_config)}
            with replacing(folder / HALVED) as new:
                write_parts(new, halved, sample_size=student.sample_size, dtype=dtype)
        return {
            str(path.relative_to(folder)): path.stat().st_size
            for path in sorted(folder.rglob("*.safetensors"))
        }

    return run_stage(
        "export",
        section_of(config),
        workdir,
        body,
        inputs={"merge": workdir / "merge"},
        seed=config.seed,
        alone=True,
    )
