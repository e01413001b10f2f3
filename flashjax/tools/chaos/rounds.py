"""A round: one stage of the road, or two, through faults to its end; then every file compared.

A round begins where the unbroken run stood before its first stage, so that every stage is met as
often as every other, and what befell it is judged within a minute.
"""

import dataclasses
import math
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flashjax.stages.run import ROAD
from flashjax.stages.stage import read_stage, steps_saved
from flashjax.tools.chaos.compare import differences, results
from flashjax.tools.chaos.faults import DONE, Fault, Job

MOST = 8  # faults of a round: every stage is to have its share
STARTING = 0.15  # of the faults come before a stage is at work
START_SECONDS = 8.0  # in which that may be
SEAM_SECONDS = 0.5  # after the end of a stage, in which a fault may come, too
LOST = "saved step {saved} of {stage}, but {found}"

Start = Callable[[Path, str, str], Job]  # of (workdir, first stage, last stage)


@dataclasses.dataclass
class Told:
    """What befell the rounds: how many faults of each kind, in which stages, and what is wrong."""

    rounds: int = 0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    stages: Counter[str] = dataclasses.field(default_factory=Counter)
    equal: int = 0  # files that were those of the unbroken run
    wrong: list[str] = dataclasses.field(default_factory=list)


def play(
    place: Path,
    unbroken: Path,
    start: Start,
    faults: Mapping[str, tuple[Fault, int]],
    told: Told,
    dice: random.Random,
    aims: Sequence[str] = tuple(ROAD),
    most: int = MOST,
) -> None:
    """One round in a folder below `place`, which goes if it ended as it should; adds to `told`.

    Args:
      unbroken: the run, finished up to the last of `aims`.
      faults: what may happen, and how often against each other.
      aims: the stages that faults are to meet, in the road's order.
      most: faults of this round.
    """
    name, wrong = f"round {told.rounds}", len(told.wrong)
    first, last = stretch(dice, aims)
    workdir = place / f"round-{told.rounds}"
    shutil.rmtree(workdir, ignore_errors=True)  # of a chaos that was stopped
    _copied(unbroken, workdir, first)
    work = _seconds(unbroken, first, last)
    watch = Watch(workdir)
    for _ in range(min(most, MOST)):
        started = time.time()
        job = start(workdir, first, last)
        _wait(job, workdir, dice, work, started)
        if job.ended():
            break
        kind = dice.choices(list(faults), [often for _, often in faults.values()])[0]
        stage = _under_way(workdir, started)
        told.faults[kind] += 1
        told.stages[stage] += 1
        try:
            faults[kind][0](job, dice)
        except (AssertionError, TimeoutError) as error:
            told.wrong.append(f"{name}: {kind} in {stage}: {error}")
        told.wrong += [f"{name}: {loss}" for loss in watch.losses()]
    else:
        job = start(workdir, first, last)
    told.rounds += 1
    if job.codes(math.inf) != {DONE}:
        told.wrong.append(f"{name}: ended with {job.codes()}, see {workdir}.log")
        return
    told.wrong += [f"{name}: {loss}" for loss in watch.losses()]
    wanted = {p: v for p, v in results(unbroken).items() if p.split("/")[0] in _until(last)}
    differ = differences(wanted, results(workdir))
    told.equal += len(wanted.keys() - set(differ))
    told.wrong += [f"{name}: {path} is not that of the unbroken run" for path in differ]
    if len(told.wrong) == wrong:
        shutil.rmtree(workdir)
        Path(f"{workdir}.log").unlink()


def stretch(dice: random.Random, aims: Sequence[str] = tuple(ROAD)) -> tuple[str, str]:
    """One of these stages, or two that follow each other on the road and what lies between."""
    names = list(ROAD)
    first = names.index(aims[dice.randrange(len(aims))])
    last = names[min(first + dice.randint(0, 1), len(names) - 1)]
    return names[first], last if last in aims else names[first]


class Watch:
    """What was saved when a fault came must be where the next start goes on."""

    def __init__(self, workdir: Path) -> None:
        self._log, self._workdir, self._read = Path(f"{workdir}.log"), workdir, 0
        self._saved: dict[str, int] = {}

    def losses(self) -> list[str]:
        """What the last start lost of what was there before it; notes what is there now."""
        text = self._log.read_text(errors="replace")[self._read :]
        self._read += len(text)
        found = [went_on(text, stage, saved) for stage, saved in self._saved.items()]
        self._saved = newest(self._workdir)
        return [words for words in found if words]


def newest(workdir: Path) -> dict[str, int]:
    """The last step that is saved, by stage, of those that are under way."""
    saved = {folder.name: steps_saved(folder) for folder in _stages(workdir) if _is_running(folder)}
    return {stage: steps[-1] for stage, steps in saved.items() if steps}


def went_on(text: str, stage: str, saved: int) -> str:
    """What a start's words say of a stage that had saved a step; "" where nothing was lost."""
    said = re.search(rf"\b{stage} goes on from step (\d+)", text)
    if said:
        lost = int(said[1]) < saved
        return LOST.format(saved=saved, stage=stage, found=f"went on from {said[1]}") * lost
    trained = re.search(rf"\b{stage}: first step ", text)
    return LOST.format(saved=saved, stage=stage, found="began anew") if trained else ""


def _copied(unbroken: Path, workdir: Path, first: str) -> None:
    """The run as it stood before a stage."""
    workdir.mkdir(parents=True)
    before = list(ROAD)[: list(ROAD).index(first)]
    for name in [*before, *(["data"] if "prepare" in before else [])]:
        shutil.copytree(unbroken / name, workdir / name)
    if before:
        shutil.copy2(unbroken / "config.json", workdir / "config.json")


def _until(last: str) -> list[str]:
    return list(ROAD)[: list(ROAD).index(last) + 1]


def _seconds(unbroken: Path, first: str, last: str) -> dict[str, float]:
    """What each stage of a stretch took in the unbroken run."""
    names = _until(last)[list(ROAD).index(first) :]
    return {name: float((read_stage(unbroken / name) or {})["seconds"]) for name in names}


def _wait(
    job: Job, workdir: Path, dice: random.Random, work: Mapping[str, float], started: float
) -> None:
    """Until some moment of the start, or of a stage, each as likely, or the job has ended.

    `work` are the stages' seconds; short ones are met as often as long ones.
    """
    if dice.random() < STARTING:
        return _pass(job, dice.uniform(0.2, START_SECONDS))
    undone = [stage for stage in work if not is_done(workdir / stage)]
    if not undone:
        return _pass(job, math.inf)
    aim = dice.choice(undone)
    while not (job.ended() or is_done(workdir / aim) or at_work(workdir / aim, started)):
        time.sleep(0.02)
    _pass(job, dice.uniform(0.0, work[aim] + SEAM_SECONDS))


def _pass(job: Job, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not job.ended():
        time.sleep(0.01)


def _stages(workdir: Path) -> list[Path]:
    return [path.parent for path in workdir.glob("*/stage.json")]


def _is_running(folder: Path) -> bool:
    return (read_stage(folder) or {}).get("status") == "running"


def is_done(folder: Path) -> bool:
    return (read_stage(folder) or {}).get("status") == "done"


def at_work(folder: Path, started: float) -> bool:
    """Whether a start at that time, by `time.time`, has come to a stage and not yet to its end.

    One that was killed says for ever that it is running: who goes on with it says so anew.
    """
    return _is_running(folder) and (folder / "stage.json").stat().st_mtime > started


def _under_way(workdir: Path, started: float) -> str:
    """The stage that a start has come to."""
    now = [folder.name for folder in _stages(workdir) if at_work(folder, started)]
    ended = [
        name
        for name in ROAD
        if is_done(workdir / name) and (workdir / name / "stage.json").stat().st_mtime > started
    ]
    return now[0] if now else f"after {ended[-1]}" if ended else "start"
