"""`bench steps --profile`: which operations take the time of a step, out of a profiler's trace."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

SHOWN = 15
AROUND = ("while", "call", "conditional")  # operations that only hold others
NUMBERED = re.compile(r"(\.\d+|\.clone|\.remat\d*)+$")


def traced(call: Callable[[], Any]) -> Counter[str]:
    """Seconds by kind of operation of one call; of all devices and threads together."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        found: Counter[str] = Counter()
        for path in Path(folder).rglob("*.xplane.pb"):
            found += seconds_of(ProfileData.from_file(str(path)))
        return found


def seconds_of(data: ProfileData) -> Counter[str]:
    """The same of a trace that has been read: its events are operations, or have one's name."""
    found: Counter[str] = Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats or line.name == "XLA Ops":
                    name = NUMBERED.sub("", str(stats.get("hlo_op", event.name)))
                    if not name.startswith(AROUND):
                        found[name] += event.duration_ns / 1e9
    return found


def table(found: Counter[str]) -> str:
    """The longest first: seconds, share, name; and what the others take."""
    total = sum(found.values()) or 1.0
    rows = found.most_common(SHOWN)
    rest = total - sum(seconds for _, seconds in rows)
    lines = [f"  {x:9.4f} s {100 * x / total:5.1f} %  {name}" for name, x in rows]
    return "\n".join([*lines, f"  {rest:9.4f} s {100 * rest / total:5.1f} %  others"])
