"""What two runs must have in common to the last bit; only times may differ."""

import hashlib
import json
from pathlib import Path
from typing import Any

from flashjax.stages.contents import CHECKPOINTS, contents
from flashjax.stages.stage import read_stage
from flashjax.train.metrics import CURVES

# Words in the names of what is measured.
TIMED = ("seconds", "milliseconds", "_s", "faster", "speed", "memory/", "time/")


def results(workdir: Path) -> dict[str, Any]:
    """Everything that a finished run left, by path, as far as it is a function of its config."""
    found: dict[str, Any] = {}
    for folder in sorted(path.parent for path in workdir.glob("*/stage.json")):
        record = read_stage(folder) or {}
        found[f"{folder.name}/stage.json"] = [record["status"], record["section"], record["seed"]]
        if folder.name != "report":  # it is a page of the others' figures, and of their times
            for name, told in contents(folder).items():
                found[f"{folder.name}/{name}"] = told
        for sums in folder.glob(f"{CHECKPOINTS}/*/checksums/metadata"):
            found[str(sums.relative_to(workdir))] = hashlib.sha256(sums.read_bytes()).hexdigest()
        found |= {
            str(p.relative_to(workdir)): _curves(p) for p in folder.glob(f"metrics*/{CURVES}")
        }
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The paths that differ between two runs."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _curves(path: Path) -> list[dict[str, Any]]:
    """Metrics without times."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if not any(word in k for word in TIMED)} for r in records]
