"""`quantize`: the exported transformer to GGUF files of fewer bits."""

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.convert.transformer import transformer_to
from flashjax.quantize.containers.gguf_export import quantize_transformer
from flashjax.stages.model import open_networks, student_of
from flashjax.stages.stage import run_stage, write_json


def section_of(config: ConfigDict) -> dict[str, Any]:
    """All of a config that the stage depends on."""
    return config.quantize.to_dict()


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Writes quantize/student-SCHEME.gguf and a table of what became of every tensor."""

    def body(folder: Path) -> dict[str, Any]:
        sizes = open_networks(workdir, names=()).transformer_config
        tensors = transformer_to(student_of(workdir, "merge"), sizes, "sai")
        results = {}
        for scheme in config.quantize.schemes:
            path = folder / f"student-{scheme}.gguf"
            written = quantize_transformer(tensors.items(), scheme=scheme, path=path)
            table = {name: _row(dataclasses.asdict(entry)) for name, entry in written.items()}
            write_json(folder / f"student-{scheme}.json", table)
            types = Counter(entry.type for entry in written.values())
            results[scheme] = {"bytes": path.stat().st_size, "tensors": dict(types)}
        return results

    return run_stage(
        "quantize",
        section_of(config),
        workdir,
        body,
        inputs={"merge": workdir / "merge"},
        seed=config.seed,
        alone=True,
    )


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    """A table row as JSON, which has no infinity: an exact tensor has no ratio of noise."""
    exact = not math.isfinite(entry["snr_db"])
    return entry | {"snr_db": None if exact else entry["snr_db"]}
