"""`bench checkpoint`: a training state to disk and back, beside a plain file of the same bytes.

The state is that of matching at one size: student and fake score with their optimisers, all of them
random, for zeros would be packed. State and file have been written just before they are read, so
that the system has them in memory.
"""

import contextlib
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.checkpoint import Checkpoints
from flashjax.checksums import checksums
from flashjax.evaluate.room import free_bytes
from flashjax.parallel.units import counted, sized
from flashjax.stages.compute import DTYPES
from flashjax.tools.bench import matched, measuring
from flashjax.tools.bench.matched import Case
from flashjax.train.state import MatchState
from flashjax.types import InputError

COPIES = 3  # of a state that are on disk at once, and in memory: here, restored, and under way
STEP = 1
CHECKSUMS, LOOP, SAVE, RESTORE = "checksums", "save: the loop waits", "save", "restore"
WRITE, READ = "plain write", "plain read"
BESIDE = {LOOP: WRITE, SAVE: WRITE, RESTORE: READ}  # what each is compared with


def run(size: str, *, workdir: str | None, rounds: int) -> dict[str, Any]:
    """Prints seconds, bytes a second and memory, and ratios to the plain file; returns them.

    InputError, before anything is made, where memory or disk have no room for it.
    """
    case = matched.case_of(size)
    measuring.check_rounds(rounds)
    shapes = jax.tree.leaves(state_of(case))
    nbytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in shapes)
    if workdir:
        Path(workdir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".flashjax-bench-", dir=workdir) as scratch:
        check_room(size, nbytes, Path(scratch))
        device = jax.local_devices()[0].device_kind
        print(f"{case.name} on {device}: a state of {sized(nbytes)} in {scratch}", flush=True)
        state = jax.block_until_ready(random_state(case))
        turns = [one_round(state, Path(scratch) / str(number)) for number in range(rounds)]
    result = {"size": case.name, "rounds": rounds} | figures(turns, nbytes)
    print(table(result), flush=True)
    return result


def state_of(case: Case) -> MatchState:
    """The shapes of the state of matching in fp32."""
    state, _ = jax.eval_shape(lambda: matched.begin(case.sizes, DTYPES["float32"]))
    return state


def random_state(case: Case) -> MatchState:
    """Normal numbers in the place of shapes, counts 0; made on the host, where none is compiled."""
    random = np.random.default_rng(0)

    def fill(x: Any) -> Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(random.standard_normal(x.shape, np.float32), x.dtype)
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.map(fill, state_of(case))


def check_room(size: str, nbytes: int, folder: Path) -> None:
    """InputError where some copies of a state fit neither disk nor memory."""
    rooms = {"the disk": shutil.disk_usage(folder).free, "memory": free_bytes()}
    for where, free in rooms.items():
        if free < COPIES * nbytes:
            raise InputError(
                f"--size {size}: {COPIES} copies of its state take {sized(COPIES * nbytes)}, and "
                f"{where} has {sized(free)}: take a smaller one, or another --workdir"
            )


@contextlib.contextmanager
def clocked(found: dict[str, dict[str, Any]], name: str) -> Iterator[None]:
    """Notes seconds and memory of what is done within the block."""
    with measuring.growing() as grown:
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
    found[name] = {"seconds": seconds, "grew_bytes": grown.nbytes}


def one_round(state: MatchState, folder: Path) -> dict[str, dict[str, Any]]:
    """Each part once, in a folder that is new and goes; what comes back is compared.

    Restoring checks the sums that saving made. RuntimeError where the plain file is another.
    """
    folder.mkdir()
    found: dict[str, dict[str, Any]] = {}
    with clocked(found, CHECKSUMS):
        checksums(state)
    checkpoints = Checkpoints(folder / "state", keep=1)
    with clocked(found, SAVE):
        started = time.perf_counter()
        checkpoints.save(STEP, state, {})
        waited = time.perf_counter() - started
        checkpoints.close()
    found[LOOP] = {"seconds": waited, "grew_bytes": None}
    with clocked(found, WRITE):
        write(folder / "plain", state)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    checkpoints = Checkpoints(folder / "state", read_only=True)
    with clocked(found, RESTORE):
        restored, _ = checkpoints.restore(STEP, abstract)
        jax.block_until_ready(restored)
    checkpoints.close()
    del restored
    with clocked(found, READ):
        read = np.fromfile(folder / "plain", np.uint8)
    if read.nbytes != sum(leaf.nbytes for leaf in jax.tree.leaves(state)):
        raise RuntimeError(f"{folder / 'plain'} is not as long as the state")
    on_disk = sum(path.stat().st_size for path in (folder / "state").rglob("*") if path.is_file())
    found[SAVE]["disk_bytes"] = on_disk
    shutil.rmtree(folder)
    return found


def write(path: Path, state: MatchState) -> None:
    """All arrays one after the other, on the disk when it returns."""
    with path.open("wb") as file:
        for leaf in jax.tree.leaves(state):
            file.write(np.asarray(leaf).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def figures(turns: list[dict[str, dict[str, Any]]], nbytes: int) -> dict[str, Any]:
    """A row for each part: medians of all rounds, the most memory of any."""
    seconds = {
        name: statistics.median(turn[name]["seconds"] for turn in turns) for name in turns[0]
    }
    rows = []
    for name in (CHECKSUMS, LOOP, SAVE, WRITE, RESTORE, READ):
        grew = [turn[name]["grew_bytes"] for turn in turns]
        beside = BESIDE.get(name)
        rows.append(
            {
                "part": name,
                "seconds": seconds[name],
                "bytes_per_second": nbytes / seconds[name],
                "times_the_plain_seconds": seconds[name] / seconds[beside] if beside else None,
                "memory_grew_bytes": None if None in grew else max(grew),
            }
        )
    disk_bytes = turns[-1][SAVE]["disk_bytes"]
    return {"state_bytes": nbytes, "disk_bytes": disk_bytes, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """A line for each part."""
    rows = []
    for row in result["rows"]:
        times, grew = row["times_the_plain_seconds"], row["memory_grew_bytes"]
        rows.append(
            [
                row["part"],
                f"{row['seconds']:.3f}",
                counted(row["bytes_per_second"], "B/s"),
                "" if times is None else f"{times:.2f}",
                "" if grew is None else f"{grew / result['state_bytes']:.2f}",
            ]
        )
    head = ["part", "seconds", "bytes", "x plain", "memory, of the state"]
    kept = f"  {sized(result['disk_bytes'])} on disk"
    return f"{measuring.table(head, rows)}\n{kept}"
