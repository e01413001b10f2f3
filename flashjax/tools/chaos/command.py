"""`chaos`: a run that is killed, stopped and damaged again and again ends as an unbroken one.

Each round starts the run of a config in a new workdir, lets a fault happen after a random time,
starts it again, and so on to its end; then every file of its results is compared with those of a
run that nothing befell. Faults and times are a function of the seed.
"""

import argparse
import json
import logging
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashjax.stages.stage import read_stage, write_json
from flashjax.tools.chaos.compare import differences, results
from flashjax.tools.chaos.faults import DONE, FAULTS, Job, fill, kill_one
from flashjax.tools.chaos.layouts import layouts
from flashjax.types import InputError

UNBROKEN, REPORT, MARK = "unbroken", "chaos.json", "made by flashjax chaos\n"
START_SECONDS = 4.0  # before which Python is hardly there

log = logging.getLogger(__name__)


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    """Rounds until so many faults have happened. InputError with a line for each that went wrong.

    A chaos that was stopped goes on with its next round.
    """
    if min(options.kills, options.processes) < 1 or options.within <= START_SECONDS:
        raise InputError(f"give 1 or more --kills and --processes, --within {START_SECONDS} s up")
    place = _mine(Path(options.workdir).absolute())
    chaos = Chaos(place, options, overrides)
    told = json.loads((place / REPORT).read_text()) if (place / REPORT).is_file() else _nothing()
    wanted = chaos.unbroken()
    if options.layouts:
        print(json.dumps(chaos.layouts(), indent=2))
        return
    while sum(told["faults"].values()) < options.kills:
        told = _added(told, chaos.round(told["rounds"], wanted))
        write_json(place / REPORT, told)
        log.info("chaos: %s", {key: told[key] for key in ("rounds", "faults", "stages")})
    print(json.dumps(told, indent=2))
    if told["wrong"]:
        raise InputError(*told["wrong"])


class Chaos:
    """The rounds of one folder."""

    def __init__(self, place: Path, options: argparse.Namespace, overrides: list[str]) -> None:
        self._place, self._options, self._overrides = place, options, overrides

    def unbroken(self) -> dict[str, Any]:
        """The results of the run that nothing befalls."""
        if self._start(self._place / UNBROKEN).codes(math.inf) != {DONE}:
            raise InputError(f"the unbroken run failed: {self._place / UNBROKEN}.log says why")
        return results(self._place / UNBROKEN)

    def round(self, number: int, wanted: dict[str, Any]) -> dict[str, Any]:
        """One run through faults; what befell it, during which stage, and what went wrong."""
        dice = random.Random(f"{self._options.seed} {number}")
        workdir = self._place / f"round-{number}"
        shutil.rmtree(workdir, ignore_errors=True)  # of a chaos that was stopped
        told = _nothing()
        kinds = FAULTS | ({"kill one": (kill_one, 6)} if self._options.processes > 1 else {})
        kinds |= {"full disk": (fill, 2)} if self._options.own_disk else {}
        while True:
            job = self._start(workdir)
            self._wait(job, dice.uniform(START_SECONDS, self._options.within))
            if job.ended():
                break
            name = dice.choices(list(kinds), [often for _, often in kinds.values()])[0]
            told["faults"][name] += 1
            told["stages"][_under_way(workdir)] += 1
            try:
                kinds[name][0](job, dice)
            except (AssertionError, TimeoutError) as error:
                told["wrong"].append(f"round {number}: {name} in {_under_way(workdir)}: {error}")
        if job.codes() != {DONE}:
            told["wrong"].append(f"round {number}: ended with {job.codes()}, see {workdir}.log")
            return told
        differ = differences(wanted, results(workdir))
        told["wrong"] += [
            f"round {number}: {path} is not that of the unbroken run" for path in differ
        ]
        if not told["wrong"]:
            shutil.rmtree(workdir)
        return told

    def layouts(self) -> dict[str, float]:
        """How far a loss is from its own after a restart on another layout, by "from -> onto"."""
        return layouts(self._place, self._place / UNBROKEN, self._start)

    def _start(
        self, workdir: Path, verb: Sequence[str] = ("run",), processes: int | None = None
    ) -> Job:
        """The processes of the run, in a session each; their words go beside the workdir."""
        number_of = processes or self._options.processes
        words = [sys.executable, "-m", "flashjax", *verb, "--config", self._options.config]
        words += ["--workdir", str(workdir), *(f"--config.{o}" for o in self._overrides)]
        port = _free_port()
        with Path(f"{workdir}.log").open("ab") as file:
            started = [
                subprocess.Popen(
                    words, stdout=file, stderr=file, env=self._environment(port, number, number_of)
                )
                for number in range(number_of)
            ]
        return Job(started, workdir, start=lambda: self._start(workdir, verb, processes))

    def _environment(self, port: int, number: int, processes: int) -> dict[str, str]:
        """What was compiled once is there at the next start; several processes meet at a port."""
        compiled = self._place / "compiled" / str(number)
        own = {
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        }
        if processes > 1:
            own |= {
                "FLASHJAX_COORDINATOR": f"127.0.0.1:{port}",
                "FLASHJAX_PROCESSES": str(processes),
                "FLASHJAX_PROCESS": str(number),
            }
        return os.environ | own

    def _wait(self, job: Job, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not job.ended():
            time.sleep(0.02)


def _mine(place: Path) -> Path:
    """The folder, made or known by its mark. InputError for one that holds what is not ours."""
    mark = place / "chaos"
    ours = mark.is_file() and mark.read_text() == MARK
    if place.is_dir() and any(place.iterdir()) and not ours:
        raise InputError(f"--workdir {place} holds something else: choose another")
    place.mkdir(parents=True, exist_ok=True)
    mark.write_text(MARK)
    return place


def _under_way(workdir: Path) -> str:
    """The stage that a run has come to."""
    for path in sorted(workdir.glob("*/stage.json"), key=lambda path: -path.stat().st_mtime):
        record = read_stage(path.parent) or {}
        return path.parent.name if record["status"] == "running" else f"after {path.parent.name}"
    return "start"


def _nothing() -> dict[str, Any]:
    return {"rounds": 0, "faults": Counter(), "stages": Counter(), "wrong": []}


def _added(told: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {
        "rounds": told["rounds"] + 1,
        "faults": Counter(told["faults"]) + more["faults"],
        "stages": Counter(told["stages"]) + more["stages"],
        "wrong": told["wrong"] + more["wrong"],
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
