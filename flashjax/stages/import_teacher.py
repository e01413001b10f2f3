"""`import`: the PyTorch teacher to sharded JAX parameters."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flashjax import trees
from flashjax.convert.table import Placement
from flashjax.parallel.mesh import make_mesh
from flashjax.sources import open_pipeline
from flashjax.stages.model import home_of, keep_model, network_shardings, source_of
from flashjax.stages.stage import run_stage
from flashjax.stages.training import show_parameters


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return {"teacher": config.teacher.to_dict(), "mesh": config.mesh.to_dict()}


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Reads the teacher, every tensor straight onto the mesh, and keeps it in Orbax."""
    source, home = source_of(config), home_of(config)

    def body(folder: Path) -> dict[str, Any]:
        mesh = make_mesh(config.mesh)

        def place(name: str) -> Placement:
            return Placement(np.dtype(np.float32), lambda tree: network_shardings(name, tree, mesh))

        absent_t5 = config.teacher.absent_t5
        pipeline = open_pipeline(source, base=home, place=place, absent_t5=absent_t5)
        show_parameters(pipeline.transformer)
        keep_model(folder, pipeline, tokenizers=home)
        return {f"{name}_parameters": trees.count(part[0]) for name, part in pipeline.parts.items()}

    return run_stage(
        "import",
        section_of(config),
        workdir,
        body,
        inputs={"source": source} | ({} if home == source else {"base": home}),
        seed=config.seed,
    )
