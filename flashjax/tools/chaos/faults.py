"""The faults that a run meets, each a function of the running job: what it does, and what is due.

A fault says which exit codes are right. A job that ended before its fault came ends with 0.
"""

import dataclasses
import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from flashjax.stages.contents import CHECKPOINTS
from flashjax.stages.stage import read_stage

DONE, WRONG_INPUT, SAVED, KILLED = 0, 2, 75, -signal.SIGKILL
PATIENCE_SECONDS = 180.0  # for a job that was asked to end
ALONE_SECONDS = 60.0  # for a process whose other one is gone
MEET_SECONDS = 40  # that processes wait for each other when they begin

# Its first argument is a folder that the command after it sees, but cannot write; root, too.
MOUNTED = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
READ_ONLY = ("unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED)


@dataclasses.dataclass
class Job:
    """The processes of one start of a run; `start` begins another one like it, under a command."""

    processes: Sequence[subprocess.Popen[bytes]]
    workdir: Path
    start: Callable[..., "Job"]  # of the words of that command
    since: float = dataclasses.field(default_factory=time.monotonic)

    def ended(self) -> bool:
        return all(process.poll() is not None for process in self.processes)

    def send(self, number: int, to: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        """A signal to those of these processes that are there, or of all."""
        for process in to or self.processes:
            if process.poll() is None:
                os.kill(process.pid, number)

    def codes(self, patience_seconds: float = PATIENCE_SECONDS) -> set[int]:
        """How the processes end; those that do not, within a bound, are killed: TimeoutError."""
        late = time.monotonic() + patience_seconds
        while not self.ended():
            if time.monotonic() > late:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"a process did not end within {patience_seconds:.0f} s")
            time.sleep(0.02)
        return {process.wait() for process in self.processes}


Fault: TypeAlias = Callable[[Job, random.Random], None]


def kill(job: Job, dice: random.Random) -> None:
    """SIGKILL to all."""
    del dice
    job.send(signal.SIGKILL)
    _check(job.codes(), {KILLED, DONE})


def kill_one(job: Job, dice: random.Random) -> None:
    """SIGKILL to one: the others leave by themselves, with a code that starts them again.

    Those that may not have met it yet wait for it first.
    """
    unmet = time.monotonic() - job.since < MEET_SECONDS
    job.send(signal.SIGKILL, [dice.choice(job.processes)])
    _check(job.codes(ALONE_SECONDS + MEET_SECONDS * unmet), {KILLED, DONE, SAVED})


def terminate_one(job: Job, dice: random.Random) -> None:
    """SIGTERM to one: all stop together."""
    job.send(signal.SIGTERM, [dice.choice(job.processes)])
    _check(job.codes(), {SAVED, DONE})


def terminate(job: Job, dice: random.Random) -> None:
    """SIGTERM to all: what can be saved is saved."""
    del dice
    job.send(signal.SIGTERM)
    _check(job.codes(), {SAVED, DONE})


def terminate_twice(job: Job, dice: random.Random) -> None:
    """A second SIGTERM while the first is obeyed: the job ends at once."""
    job.send(signal.SIGTERM)
    time.sleep(dice.uniform(0.0, 0.5))
    job.send(signal.SIGTERM)
    _check(job.codes(), {SAVED, -signal.SIGTERM, DONE})


def second_run(job: Job, dice: random.Random) -> None:
    """A second run in the same workdir: it is refused, or finds all done; then the kill."""
    _check(job.start().codes(), {WRONG_INPUT, DONE})
    kill(job, dice)


def flip(job: Job, dice: random.Random) -> None:
    """After a kill, one bit of what a finished stage left is another: the next start says so."""
    _damaged(job, dice, _flip_bit)


def remove(job: Job, dice: random.Random) -> None:
    """After a kill, a file that a finished stage left is gone: the next start says so."""
    _damaged(job, dice, lambda path, dice: path.unlink())


def read_only(job: Job, dice: random.Random) -> None:
    """After a kill, nothing may be written below the workdir: the next start says so."""
    kill(job, dice)
    _check(job.start(*READ_ONLY, str(job.workdir)).codes(), {WRONG_INPUT})


def fill(job: Job, dice: random.Random) -> None:
    """No byte is free any more: the job says so, or needed none."""
    del dice
    balloon = job.workdir.with_name("balloon")
    try:
        with balloon.open("wb") as file:
            _fill(file.fileno(), balloon.parent)
        _check(job.codes(), {WRONG_INPUT, DONE})
    finally:
        balloon.unlink()


FAULTS: dict[str, tuple[Fault, int]] = {  # and how often
    "kill": (kill, 12),
    "terminate": (terminate, 3),
    "terminate twice": (terminate_twice, 1),
    "second run": (second_run, 1),
    "flip": (flip, 1),
    "remove": (remove, 1),
}

OF_ONE: dict[str, tuple[Fault, int]] = {  # of several processes
    "kill one": (kill_one, 6),
    "terminate one": (terminate_one, 2),
}


def _fill(file: int, disk: Path) -> None:
    """Until nothing is left; while it is counted, the job takes of it, too."""
    while free := shutil.disk_usage(disk).free:
        try:
            os.posix_fallocate(file, os.fstat(file).st_size, free)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def can_mount() -> bool:
    """Whether a folder can be made read-only for a process of ours."""
    words = [*READ_ONLY, str(Path.cwd()), "true"]
    return (
        bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True).returncode == 0
    )


def _damaged(job: Job, dice: random.Random, damage: Callable[[Path, random.Random], None]) -> None:
    """Damages a file that the next stage reads; a start must refuse it; then it is brought back."""
    kill(job, dice)
    files = _read_next(job.workdir)
    if not files:
        return
    path = dice.choice(files)
    kept = path.with_name(f".{path.name}.kept")
    shutil.copy2(path, kept)
    damage(path, dice)
    try:
        _check(job.start().codes(), {WRONG_INPUT, DONE})  # done where nothing read it again
    finally:
        kept.replace(path)


def _flip_bit(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(data))


def _read_next(workdir: Path) -> list[Path]:
    """The largest file of each tree that a stage under way, or the next, was handed."""
    running = [path.parent for path in workdir.glob("*/stage.json") if _is_running(path.parent)]
    inputs = [
        Path(told["path"])
        for folder in running
        for told in (read_stage(folder) or {})["inputs"].values()
        if Path(told["path"]).parent == workdir
    ]
    trees = {tree for folder in inputs for tree in folder.rglob("ocdbt.process_0")}
    kept = [tree for tree in trees if CHECKPOINTS not in tree.parts]
    return sorted(max(tree.rglob("d/*"), key=lambda path: path.stat().st_size) for tree in kept)


def _is_running(folder: Path) -> bool:
    return (read_stage(folder) or {}).get("status") == "running"


def _check(codes: set[int], right: set[int]) -> None:
    if not codes <= right:
        raise AssertionError(f"exit codes {sorted(codes)}, of {sorted(right)} were right")
