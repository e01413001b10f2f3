"""`bench startup`: seconds from the command to the first step of `guide`, cold and warm.

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

from flashjax.types import InputError

FIRST_STEP = re.compile(r"guide: first step ([\d.]+) s after the command, itself ([\d.]+) s")
STARTS = ("cold", "warm", "warm again")


def run(path: str, overrides: Sequence[str], workdir: Path) -> None:
    """Prints the seconds of each start, and all of them as JSON. InputError for a used workdir."""
    if (workdir / "guide").exists():
        raise InputError(f"{workdir} has a guide already: give bench startup a workdir of its own")
    flags = ["--config", path, "--workdir", str(workdir)]
    flags += [f"--config.{override}" for override in overrides]
    for verb in ("import", "prepare"):
        subprocess.run(command(verb, flags), check=True, stderr=subprocess.DEVNULL)
    found = {}
    for name in STARTS:
        found[name] = first_step(command("guide", flags))
        told = found[name]
        print(
            f"{name:10} {told['wall']:6.1f} s to the first step, {told['itself']:.1f} s of them in "
            f"the job",
            flush=True,
        )
    print(json.dumps(found))


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
