"""`bench startup`: seconds from the command to a first step, of `guide` and of `match`.

Cold, nothing is compiled yet; warm, the stage goes on and finds its programs in the cache. Each is
a process of its own, which is told to stop after its first step.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashjax.types import InputError

FIRST_STEP = re.compile(r"\w+: first step ([\d.]+) s after the command, itself ([\d.]+) s")
STARTS = ("cold", "warm", "warm again")
BEFORE = {"guide": "prepare", "match": "guide"}  # the last stage that is there already


def run(path: str, overrides: Sequence[str], workdir: Path) -> dict[str, Any]:
    """Prints the seconds of each start; returns all of them. InputError for a used workdir.

    Each stage has a run of its own in `workdir`; what comes before `match` is one step of `guide`.
    """
    if any((workdir / stage).exists() for stage in BEFORE):
        raise InputError(f"{workdir} has runs already: give bench startup a workdir of its own")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for stage, before in BEFORE.items():
        flags = ["--config", path, "--workdir", str(workdir / stage)]
        shorter = ["guide.job.steps=1"] if stage != "guide" else []
        flags += [f"--config.{override}" for override in [*overrides, *shorter]]
        made = command("run", ["--from", "import", "--to", before, *flags])
        subprocess.run(made, check=True, stderr=subprocess.DEVNULL)
        found[stage] = {}
        for name in STARTS:
            told = found[stage][name] = first_step(command(stage, flags))
            print(
                f"{stage:5} {name:10} {told['wall']:6.1f} s to the first step, "
                f"{told['itself']:.1f} s of them in the step itself",
                flush=True,
            )
    print(json.dumps(found))
    return {"config": path, "seconds": found}


def command(verb: str, flags: Sequence[str]) -> list[str]:
    """A verb in a process of its own."""
    return [sys.executable, "-m", "flashjax", verb, *flags]


def first_step(words: Sequence[str]) -> dict[str, float]:
    """Starts a job, waits for its first step and stops it. InputError where it ends without one."""
    started, last = time.monotonic(), ""
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None, "asked for"
        for line in job.stderr:
            if said := FIRST_STEP.search(line):
                wall = time.monotonic() - started
                job.send_signal(signal.SIGTERM)
                job.stderr.read()
                return {"wall": wall, "itself": float(said[2])}
            last = line.strip() or last
    raise InputError(f"bench startup: the job ended before its first step: {last}")
