"""`chaos`: a run that is killed, stopped and damaged again and again ends as an unbroken one.

Each round goes a stretch of a config's road, lets a fault happen after a random time, starts again,
and so on to its end; then every file of its results is compared with those of a run that nothing
befell. Faults and times are a function of the seed.
"""

import argparse
import dataclasses
import functools
import json
import logging
import math
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flashjax.parallel import signals
from flashjax.parallel.hosts import MEET
from flashjax.stages.run import ROAD
from flashjax.stages.stage import write_json
from flashjax.tools.chaos.compare import differences, results
from flashjax.tools.chaos.faults import (
    DONE,
    FAULTS,
    MEET_SECONDS,
    OF_ONE,
    Job,
    can_mount,
    fill,
    read_only,
)
from flashjax.tools.chaos.layouts import layouts
from flashjax.tools.chaos.rounds import Told, is_done, play
from flashjax.types import InputError

FIRST, UNBROKEN, REPORT, MARK = "first", "unbroken", "chaos.json", "made by flashjax chaos\n"

log = logging.getLogger(__name__)


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    """Rounds until so many faults have happened. InputError with a line for each that went wrong.

    A chaos that was stopped goes on with its next round.
    """
    if min(options.kills, options.processes) < 1:
        raise InputError("give 1 or more --kills and --processes")
    aims = _aims(options.stages)
    place = _mine(Path(options.workdir).absolute())
    chaos = Chaos(place, options, overrides, aims)
    chaos.unbroken()
    if options.layouts:
        print(json.dumps(chaos.layouts(), indent=2))
        return
    told = _told(place / REPORT)
    while told.faults.total() < options.kills:
        chaos.round(told)
        write_json(place / REPORT, vars(told))
        log.info("chaos: %s", vars(told))
    print(json.dumps(vars(told), indent=2))
    if told.wrong:
        raise InputError(*told.wrong)


class Chaos:
    """The runs of one folder, whose faults are to meet the stages `aims`."""

    def __init__(
        self, place: Path, options: argparse.Namespace, overrides: list[str], aims: Sequence[str]
    ) -> None:
        self._place, self._options, self._overrides = place, options, overrides
        self._aims = aims
        self._under_way: list[Job] = []
        signals.before_end(lambda code: self.end())
        self._faults = FAULTS | (OF_ONE if options.processes > 1 else {})
        self._faults |= {"full disk": (fill, 2)} if options.own_disk else {}
        self._faults |= {"read only": (read_only, 1)} if can_mount() else {}

    def unbroken(self) -> None:
        """The run that nothing befalls, twice: the second one is not slowed down by compilers.

        It ends with the last stage that faults are to meet. InputError where it fails, or where the
        two are not equal.
        """
        for name in (FIRST, UNBROKEN):
            if is_done(self._place / name / self._aims[-1]):
                continue
            job = self._start(self._place / name, ("run", "--to", self._aims[-1]))
            if job.codes(math.inf) != {DONE}:
                raise InputError(f"the unbroken run failed: {self._place / name}.log says why")
        differ = differences(results(self._place / FIRST), results(self._place / UNBROKEN))
        if differ:
            raise InputError(f"two unbroken runs differ: {', '.join(differ)}")

    def round(self, told: Told) -> None:
        """One stretch of the road through faults."""
        dice = random.Random(f"{self._options.seed} {told.rounds}")
        left = self._options.kills - told.faults.total()

        def start(workdir: Path, first: str, last: str) -> Job:
            return self._start(workdir, ("run", "--from", first, "--to", last))

        play(self._place, self._place / UNBROKEN, start, self._faults, told, dice, self._aims, left)

    def end(self) -> None:
        """Ends what is under way: a later chaos is to find its folder free."""
        for job in self._under_way:
            job.send(signal.SIGKILL)

    def layouts(self) -> dict[str, float]:
        """How far a loss is from its own after a restart on another layout, by "from -> onto"."""
        return layouts(self._place, self._place / UNBROKEN, self._start, self._aims)

    def _start(
        self,
        workdir: Path,
        verb: Sequence[str],
        processes: int | None = None,
        under: Sequence[str] = (),
    ) -> Job:
        """The processes of the run, `under` a command; their words go beside the workdir."""
        number_of = processes or self._options.processes
        words = [*under, sys.executable, "-m", "flashjax", *verb, "--config", self._options.config]
        words += ["--workdir", str(workdir), *(f"--config.{o}" for o in self._overrides)]
        if number_of == 1:  # as users have it: programs are kept, traced and compiled
            words += ["--compilation_cache", str(self._place / "compiled" / "0")]
        port = _free_port()
        with Path(f"{workdir}.log").open("ab") as file:
            started = [
                subprocess.Popen(
                    words, stdout=file, stderr=file, env=self._environment(port, number, number_of)
                )
                for number in range(number_of)
            ]
        again = functools.partial(self._start, workdir, verb, processes)
        job = Job(started, workdir, start=lambda *under: again(under))
        self._under_way = [*(j for j in self._under_way if not j.ended()), job]
        return job

    def _environment(self, port: int, number: int, processes: int) -> dict[str, str]:
        """What was compiled once is there at the next start; several processes meet at a port."""
        own = {}
        if processes > 1:  # of which on CPUs the product itself keeps nothing
            own = {
                "JAX_COMPILATION_CACHE_DIR": str(self._place / "compiled" / str(number)),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
                "FLASHJAX_COORDINATOR": f"127.0.0.1:{port}",
                "FLASHJAX_PROCESSES": str(processes),
                "FLASHJAX_PROCESS": str(number),
                MEET: str(MEET_SECONDS),
            }
        return os.environ | own


def _aims(given: str) -> list[str]:
    """The stages that are named, or all, in the road's order. InputError for others."""
    named = [*filter(None, given.split(","))] or list(ROAD)
    if unknown := sorted(set(named) - ROAD.keys()):
        raise InputError(f"--stages {', '.join(unknown)}: the road has {', '.join(ROAD)}")
    return [stage for stage in ROAD if stage in named]


def _mine(place: Path) -> Path:
    """The folder, made or known by its mark. InputError for one that holds what is not ours."""
    mark = place / "chaos"
    ours = mark.is_file() and mark.read_text() == MARK
    if place.is_dir() and any(place.iterdir()) and not ours:
        raise InputError(f"--workdir {place} holds something else: choose another")
    place.mkdir(parents=True, exist_ok=True)
    mark.write_text(MARK)
    return place


def _told(path: Path) -> Told:
    """What the rounds before have told."""
    told = Told(**json.loads(path.read_text())) if path.is_file() else Told()
    return dataclasses.replace(told, faults=Counter(told.faults), stages=Counter(told.stages))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
