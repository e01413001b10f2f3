"""`run`: all stages of a config, in order; a finished stage is skipped, an unfinished goes on."""

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

ROAD = (
    import_teacher,
    prepare,
    guide,
    match,
    split,
    merge,
    export,
    quantize,
    evaluate,
    report,
)


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs the road from the teacher's folder to the report; prints the report's path."""
    write_config(workdir, config)
    results: dict[str, Any] = {}
    for stage in ROAD:
        results = stage.run(config, workdir)
    for name, met in results["bars"].items():
        log.info("%s  %s", "met    " if met else "NOT MET", name)
    print((workdir / "report" / results["report"]).resolve())
    return results
