"""`run`: stages of a config, in order; a finished stage is skipped, an unfinished goes on."""

import logging
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.stages import (
    evaluate,
    export,
    guide,
    import_teacher,
    match,
    merge,
    prepare,
    quantize,
    report,
    split,
)
from flashjax.stages.stage import write_config

log = logging.getLogger(__name__)

ROAD = {
    "import": import_teacher,
    "prepare": prepare,
    "guide": guide,
    "match": match,
    "split": split,
    "merge": merge,
    "export": export,
    "quantize": quantize,
    "evaluate": evaluate,
    "report": report,
}
FIRST, *_, LAST = ROAD


def run(
    config: ConfigDict, workdir: Path, *, first: str = FIRST, last: str = LAST
) -> dict[str, Any]:
    """Runs the road from the teacher's folder to the report; prints the report's path.

    Or a part of it, from the stage `first` to the stage `last`: returns that one's results.
    """
    write_config(workdir, config)
    results: dict[str, Any] = {}
    names = list(ROAD)
    for name in names[names.index(first) : names.index(last) + 1]:
        results = ROAD[name].run(config, workdir)
    if last != LAST:
        return results
    for name, met in results["bars"].items():
        log.info("%s  %s", "met    " if met else "NOT MET", name)
    print((workdir / "report" / results["report"]).resolve())
    return results
