"""`merge`: the branches to one student."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.checkpoint import load_params, save_params
from flashjax.stages.stage import run_stage
from flashjax.train.merge import merge


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Weighs the branches' averaged weights as the config says."""
    weights = config.merge.weights.to_dict()

    def body(folder: Path) -> dict[str, Any]:
        branches = [load_params(workdir / "split" / name / "params") for name in weights]
        save_params(folder / "params", merge(branches, list(weights.values())))
        return {"weights": weights}

    return run_stage(
        "merge",
        {"weights": weights},
        workdir,
        body,
        inputs={"split": workdir / "split"},
        seed=config.seed,
    )
