"""Many processes, one program: who we are, from whichever launcher started us.

`jax.distributed` knows SLURM and Cloud TPU by itself; JobSets and plain shells say it in the
environment. Without any of these there is one process, and nothing to initialise.
"""

import atexit
import dataclasses
import hashlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import jax
import numpy as np
from jax._src.distributed import global_state
from jax.experimental import multihost_utils

from flashjax.parallel import kept, peers, signals, watch
from flashjax.parallel.prepared import under_way
from flashjax.types import InputError

PORT = 8476
MEET, MEET_SECONDS = "FLASHJAX_MEET_SECONDS", 300  # hosts of a pod may start minutes apart
EXPLICIT = ("FLASHJAX_COORDINATOR", "FLASHJAX_PROCESSES", "FLASHJAX_PROCESS")
KEPT_SECONDS = 0.3  # of compilation, from which on a program is kept
SETTLE_SECONDS = 2.0  # within which a process hears why the others have left it
TASKS, HOSTNAMES, FOUND = "SLURM_NTASKS", "TPU_WORKER_HOSTNAMES", "FLASHJAX_DISTRIBUTED"
_JOBSET = ("JOBSET_NAME", "REPLICATED_JOB_NAME", "JOB_COMPLETION_INDEX", "FLASHJAX_PROCESSES")
_SAID_BY = {"slurm": TASKS, "tpu": HOSTNAMES, "auto": FOUND}  # that there are several processes

_share_stop: list[Callable[[], None]] = []  # JAX's own handler, once there are several processes


@dataclasses.dataclass(frozen=True)
class Job:
    """How the processes meet: by `launcher`; JAX finds the rest where `coordinator` is empty."""

    launcher: str
    coordinator: str = ""
    processes: int = 0
    process: int = 0


def job_of(environment: Mapping[str, str]) -> Job | None:
    """The job that this process is part of, or None if it is alone.

    An explicit coordinator wins, then JobSet, SLURM with several tasks, a TPU of several hosts.
    InputError for an environment that says only a part.
    """
    jobset = all(name in environment for name in _JOBSET)
    if not jobset and any(name in environment for name in EXPLICIT):
        return _explicit(environment)
    if jobset:
        name, role = environment["JOBSET_NAME"], environment["REPLICATED_JOB_NAME"]
        number = _whole(environment, "FLASHJAX_PROCESSES")
        per_job = _whole(environment, "FLASHJAX_PROCESSES_PER_JOB", number)
        before = _whole(environment, "JOB_INDEX", 0) * per_job
        index = before + _whole(environment, "JOB_COMPLETION_INDEX")
        return _checked(Job("jobset", f"{name}-{role}-0-0.{name}:{PORT}", number, index))
    if (found := environment.get(FOUND, "")) not in ("", "auto"):
        raise InputError(f"{FOUND}={found}: write auto, or unset it")
    if "SLURM_JOB_ID" in environment and _whole(environment, TASKS, 1) > 1:
        return Job("slurm")
    if "," in environment.get(HOSTNAMES, ""):
        return Job("tpu")
    return Job("auto") if found else None  # a TPU VM says nothing in its shell


def initialise(environment: Mapping[str, str]) -> Job | None:
    """Meets the other processes of the job, if there are any; before JAX touches a device."""
    job = job_of(environment)
    if job is None:
        return None
    patience = _meet_seconds(environment)
    # Between processes on CPUs; of no effect where there are accelerators.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with _not_for_ever(patience) as later:
        if job.coordinator:
            where = job.coordinator, job.processes, job.process
            jax.distributed.initialize(*where, initialization_timeout=later)
        else:
            _find_others(_SAID_BY[job.launcher], environment, later)
    if signals.listening():
        _share_stop.append(signals.take_back(signal.SIGTERM))
    # What processes meet through is made at their first meeting, and gloo waits no more than half
    # a minute for it: they meet while they are still abreast.
    host = (global_state.coordinator_address or "").rpartition(":")[0].strip("[]")
    others = peers.watch(host, jax.process_index(), jax.process_count())
    signals.delay_abort()
    signals.before_end(others.say)
    atexit.register(others.say, 0)
    return job


def _find_others(said_by: str, environment: Mapping[str, str], seconds: int) -> None:
    """Has JAX find the other processes. InputError where this one is no task."""
    try:
        jax.distributed.initialize(initialization_timeout=seconds)
    except ValueError as error:
        raise InputError(
            f"{said_by}={environment[said_by]} says that there are several processes, and JAX "
            f"finds no others here: start each by their launcher (srun), or unset {said_by}"
        ) from error


def _meet_seconds(environment: Mapping[str, str]) -> int:
    """How long processes wait for each other before a job begins. InputError for no such number."""
    told = environment.get(MEET, str(MEET_SECONDS))
    if not told.isdecimal() or not int(told):
        raise InputError(f"{MEET}={told}: give whole seconds, 1 or more")
    return int(told)


@contextmanager
def _not_for_ever(seconds: int) -> Iterator[int]:
    """Ends this process where the block takes longer; gives JAX a later bound, at which it aborts.

    Whoever starts it again finds the code of a job that others have left.
    """
    words = (
        f"the processes of this job have not met within {seconds} s: one has not started or was "
        f"killed, or the coordinator's port is closed; {signals.saved()}; {signals.AGAIN} ({MEET} "
        f"is how long they wait)"
    )
    timer = threading.Timer(seconds, signals.end, [words])
    timer.daemon = True
    timer.start()
    try:
        yield 2 * seconds
    finally:
        timer.cancel()


def leave(code: int) -> None:
    """Ends a process at once, with this exit code, that is of a job of several or compiles yet.

    At its usual end it would wait for the others to end, too, which may be waiting for it: minutes
    later both would be aborted, and nobody would know why. And it would wait for what it compiles
    ahead, which nobody wants any more.
    """
    in_vain = signals.listening() and under_way()
    if jax.distributed.is_initialized() or in_vain:
        if sys.exc_info()[0]:
            settle()
            traceback.print_exc()  # nobody else does it any more
        signals.end(code=code)


def settle() -> None:
    """Gives others the time to be heard of: what fails here may do so because one of them is gone.

    Then that is said, and ends this process.
    """
    if jax.distributed.is_initialized():
        time.sleep(SETTLE_SECONDS)


def keep_programs(folder: Path | str) -> None:
    """Has JAX keep what it compiles in a folder, and look there before; after `initialise`.

    The first process writes and all read. A folder that JAX's own variable names stays. Programs of
    several processes on CPUs are none of the others', and are compiled anew. What one process
    traces is kept there, too: in a folder of ours, as JAX's may be that of many programs.
    """
    several_cpus = jax.process_count() > 1 and jax.default_backend() == "cpu"
    if several_cpus or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        kept.keep_in(None)
        return
    kept.keep_in(Path(folder).absolute())
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_SECONDS)


def share_stop() -> None:
    """Tells JAX of a signal: all processes are to stop after the same step."""
    for tell in _share_stop:
        tell()


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def any_process(value: bool) -> bool:
    """Whether it is true of any process; all ask together."""
    return bool(multihost_utils.process_allgather(np.bool_(value)).any())


def all_say(text: str) -> bool:
    """Whether all processes say the same; all ask together."""
    if jax.process_count() == 1:
        return True
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    return bool((multihost_utils.process_allgather(own) == own).all())


def watched(folder: Path, at: str) -> AbstractContextManager[None]:
    """A watch over this process within the block, if it is one of several (parallel/watch.py)."""
    if jax.process_count() == 1:
        return nullcontext()
    return watch.watched(folder, jax.process_index(), at)


def meet(name: str) -> None:
    """Waits for all processes: what one wrote before is there for the others after."""
    if jax.process_count() > 1:
        watch.alive(f"waits until {name}")
        multihost_utils.sync_global_devices(name)


def _explicit(environment: Mapping[str, str]) -> Job:
    missing = [name for name in EXPLICIT if not environment.get(name)]
    if missing:
        raise InputError(f"{', '.join(missing)} is not set: give {', '.join(EXPLICIT)} or none")
    coordinator = environment[EXPLICIT[0]]
    found = re.fullmatch(r"[\w.\-\[\]:]+:(\d+)", coordinator)
    if not found or not 0 < int(found[1]) < 2**16:
        raise InputError(f"{EXPLICIT[0]}={coordinator}: write HOST:PORT, a port below 65536")
    try:
        processes, process = (int(environment[name]) for name in EXPLICIT[1:])
    except ValueError as error:
        raise InputError(f"{' and '.join(EXPLICIT[1:])} take whole numbers") from error
    return _checked(Job("explicit", coordinator, processes, process))


def _whole(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A count or an index of an environment; the default where it says nothing."""
    if default is not None and name not in environment:
        return default
    if not environment[name].isdecimal():
        raise InputError(f"{name}={environment[name]}: it is to be a whole number, 0 or more")
    return int(environment[name])


def _checked(job: Job) -> Job:
    if not 0 <= job.process < job.processes:
        raise InputError(f"process {job.process} of {job.processes}: count processes from 0")
    return job


def agreed(value: float) -> float:
    """What the first process says of a number, float32: hosts may differ in its last bits."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))
