"""`bench compile`: seconds to trace, lower and compile each program of a config, cold and again.

Cold, a fresh folder keeps what is compiled; then JAX forgets all that this process has, the
programs are made anew, and what the folder keeps is read. Nothing is run, no weight is made.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from flashjax.parallel.mesh import simulate_devices
from flashjax.parallel.units import sized
from flashjax.tools import sections
from flashjax.tools.bench import measuring
from flashjax.tools.bench.steps import RUNNABLE
from flashjax.tools.plan.programs import Planned, programs

COLD, AGAIN = "cold", "again"
PHASES = ("trace", "lower", "compile")
HIT = "/jax/compilation_cache/cache_hits"  # JAX's own event
CACHE = {  # JAX's settings of what it keeps: here all of it
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def run(path: str, overrides: list[str], names: tuple[str, ...]) -> dict[str, Any]:
    """Prints seconds of each phase and the size of each program; returns them.

    InputError for a name that `plan` does not know.
    """
    config = sections.load(path, overrides)
    sections.check(config, "bench")
    simulate_devices(config.simulate_devices)
    make = lambda: programs(config, jax.devices(), names or RUNNABLE)
    first = make()
    device = jax.local_devices()[0].device_kind
    print(f"{path} on {jax.device_count()} x {device}: {', '.join(p.name for p in first)}")
    with tempfile.TemporaryDirectory(prefix="flashjax-bench-") as folder, keeping(Path(folder)):
        cold = [measured(planned, COLD, Path(folder)) for planned in first]
        del first
        jax.clear_caches()
        again = [measured(planned, AGAIN, Path(folder)) for planned in make()]
    result = {
        "config": path,
        "rows": [row for pair in zip(cold, again, strict=True) for row in pair],
    }
    print(table(result), flush=True)
    return result


@contextlib.contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """JAX keeps every program in `folder` within the block, and what it did before after it."""
    settings = CACHE | {"jax_compilation_cache_dir": str(folder)}
    before = {name: getattr(jax.config, name) for name in settings}
    jax.clear_caches()
    try:
        _set(settings)
        yield
    finally:
        _set(before)


def _set(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # its folder is looked at once


@contextlib.contextmanager
def hits() -> Iterator[list[str]]:
    """The programs that are read from the cache within the block, an event for each."""
    found: list[str] = []

    def heard(event: str, **said: Any) -> None:
        if event == HIT:
            found.append(event)

    jax.monitoring.register_event_listener(heard)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_listener(heard)


def measured(planned: Planned, start: str, folder: Path) -> dict[str, Any]:
    """Traces, lowers and compiles one program; a line says how long that took."""
    kept, busy, marks = size_of(folder), time.process_time(), [time.perf_counter()]
    with hits() as read:
        traced = planned.step.trace(*planned.arguments)
        marks.append(time.perf_counter())
        lowered = traced.lower()
        marks.append(time.perf_counter())
        compiled = lowered.compile()
        marks.append(time.perf_counter())
    busy = time.process_time() - busy
    seconds = {name: marks[i + 1] - marks[i] for i, name in enumerate(PHASES)}
    text = compiled.as_text()
    row = {
        "program": planned.name,
        "start": start,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "seconds": marks[-1] - marks[0],
        "cpu_seconds": busy,
        "read_from_cache": bool(read),
        "operations": sum(" = " in line for line in text.splitlines()),
        "code_bytes": compiled.memory_analysis().generated_code_size_in_bytes,
        "kept_bytes": size_of(folder) - kept,
    }
    print(f"  {planned.name} {start}: {row['seconds']:.1f} s", flush=True)
    return row


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table(result: dict[str, Any]) -> str:
    """A line for each program and start."""
    head = ["program", "start", *(f"{name} s" for name in PHASES), "all s", "CPU s"]
    head += ["x cold", "operations", "kept"]
    cold = {row["program"]: row["seconds"] for row in result["rows"] if row["start"] == COLD}
    rows = []
    for row in result["rows"]:
        seconds = [row[f"{name}_seconds"] for name in PHASES]
        rows.append(
            [
                row["program"],
                row["start"],
                *(f"{value:.2f}" for value in (*seconds, row["seconds"], row["cpu_seconds"])),
                f"{cold[row['program']] / row['seconds']:.1f}",
                str(row["operations"]),
                sized(row["kept_bytes"]) if row["start"] == COLD else "",
            ]
        )
    return measuring.table(head, rows)
