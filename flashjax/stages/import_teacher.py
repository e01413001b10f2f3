"""`import`: the PyTorch teacher to sharded JAX parameters."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flashjax import trees
from flashjax.checkpoint import save_params
from flashjax.parallel.layout import MMDIT, REPLICATED
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import param_shardings
from flashjax.stages.model import open_source, source_of
from flashjax.stages.stage import run_stage
from flashjax.stages.training import show_parameters


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Reads the teacher's folder, lays every tensor out on the mesh, and keeps it in Orbax."""
    source = source_of(config)

    def body(folder: Path) -> dict[str, Any]:
        pipeline, _ = open_source(source)
        mesh = make_mesh(config.mesh)
        params = {}
        for name, rules in (("transformer", MMDIT), ("vae", REPLICATED), ("text", REPLICATED)):
            network = getattr(pipeline, name)
            params[name] = jax.device_put(network, param_shardings(network, rules, mesh))
        show_parameters(params["transformer"])
        save_params(folder / "params", params)
        return {f"{name}_parameters": trees.count(network) for name, network in params.items()}

    return run_stage(
        "import",
        {"teacher": config.teacher.to_dict(), "mesh": config.mesh.to_dict()},
        workdir,
        body,
        inputs={"source": source / "model_index.json"},
        seed=config.seed,
    )
