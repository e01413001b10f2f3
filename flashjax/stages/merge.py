"""`merge`: the branches to one student."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.checkpoint import load_params, save_params
from flashjax.stages.split import folder_of
from flashjax.stages.stage import run_stage
from flashjax.train.merge import merge


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Weighs the branches' averaged weights as the config says, from one job or one job each."""
    weights = config.merge.weights.to_dict()
    apart = not (workdir / folder_of("")).exists()
    folders = {name: workdir / folder_of(name if apart else "") for name in weights}

    def body(folder: Path) -> dict[str, Any]:
        branches = [load_params(folders[name] / name / "params") for name in weights]
        save_params(folder / "params", merge(branches, list(weights.values())))
        return {"weights": weights}

    return run_stage(
        "merge",
        {"weights": weights},
        workdir,
        body,
        inputs={path.name: path for path in folders.values()},
        seed=config.seed,
    )
