"""`run`: stages of a config, in order; a finished stage is skipped, an unfinished goes on."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flashjax.parallel.hosts import is_first
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
from flashjax.stages.refused import withdrawn_config
from flashjax.stages.stage import check_identity, stage_of, write_config

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


def check_before(config: ConfigDict, workdir: Path, verb: str) -> None:
    """InputError where a stage that `verb` runs, or builds on, is that of another config."""
    names = list(ROAD)
    if verb in ROAD or verb == "run":
        check_stages(config, workdir, names[: names.index(verb) + 1] if verb in ROAD else names)


def check_stages(config: ConfigDict, workdir: Path, names: Sequence[str]) -> None:
    """InputError where one of these stages in a workdir is of another config, or no stage's."""
    only = config.split.get("only", "") if "split" in config else ""
    for name in names:
        folder = workdir / (split.folder_of(only) if name == "split" else name)
        _, anew = stage_of(folder)
        if not anew:
            check_identity(folder, ROAD[name].section_of(config), config.seed)


def run(
    config: ConfigDict, workdir: Path, *, first: str = FIRST, last: str = LAST
) -> dict[str, Any]:
    """Runs the road from the teacher's folder to the report; prints the report's path.

    Or a part of it, from the stage `first` to the stage `last`: returns that one's results.
    """
    names = list(ROAD)
    results: dict[str, Any] = {}
    with withdrawn_config(workdir) if is_first() else nullcontext():
        write_config(workdir, config)
        for name in names[names.index(first) : names.index(last) + 1]:
            results = ROAD[name].run(config, workdir)
    if last != LAST:
        return results
    for name, met in results["bars"].items():
        log.info("%s  %s", "met    " if met else "NOT MET", name)
    print((workdir / "report" / results["report"]).resolve())
    return results
