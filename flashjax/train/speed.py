"""How fast a job is, and what it holds: rates, utilisation, memory, learning rates.

Operations are those that the method needs (train/flops.py), so what is computed twice lowers the
utilisation. Seconds are those of steps and of their input, not of what is compiled or saved.
"""

import dataclasses
import resource
import sys
from collections.abc import Callable, Mapping

import jax

from flashjax.parallel.peak import device_peak
from flashjax.train.goodput import Goodput

SKIPPED = "/skipped"


@dataclasses.dataclass(frozen=True)
class Pace:
    """A network's `updates` a step; `more` of them, or fewer, in each of the first `alone`."""

    updates: int = 1
    alone: int = 0
    more: int = 0

    def made(self, step: int) -> int:
        """The updates of so many steps."""
        return step * self.updates + min(step, self.alone) * self.more


EACH_STEP = Pace()


@dataclasses.dataclass(frozen=True)
class Rate:
    """A network's learning rate by its number of updates before, and how it comes by them."""

    of: Callable[[int], float]
    pace: Pace = EACH_STEP


@dataclasses.dataclass(frozen=True)
class Work:
    """What one step is, on all devices together.

    Attributes:
      samples: that it learns from.
      flops: operations of the model; 0 where nobody has counted them.
      rates: learning rates by network.
    """

    samples: int
    flops: float = 0.0
    rates: Mapping[str, Rate] = dataclasses.field(default_factory=dict)


class Speedometer:
    """Figures of the steps since it was last read.

    "speed/samples_per_second", "speed/flops_per_device" (a second), "speed/mfu" (a share),
    "memory/host_bytes" and "memory/device_bytes" (the most so far),
    "goodput/<category>_seconds" (so far), "time/goodput" (the share of steps),
    "time/step_seconds", "<network>/learning_rate".
    """

    def __init__(self, work: Work, goodput: Goodput) -> None:
        self._work, self.goodput = work, goodput
        self._peak = device_peak() if work.flops else None  # known since before anything compiled
        self._before = goodput.seconds()

    def __call__(self, step: int, steps: int, means: Mapping[str, float]) -> dict[str, float]:
        """After `step`, the last of `steps`, whose metrics have these means."""
        now, before = self.goodput.seconds(), self._before
        self._before = now
        seconds = sum(now[name] - before[name] for name in ("step", "input"))
        account = {f"goodput/{name}_seconds": value for name, value in now.items()}
        total = sum(now.values())
        share = {"time/goodput": now["step"] / total} if total else {}
        rate = steps / seconds if seconds > 0 else 0.0
        pace = {"time/step_seconds": seconds / steps} if seconds > 0 else {}
        return (
            speed(self._work, rate, self._peak)
            | memory()
            | account
            | share
            | pace
            | learning_rates(self._work.rates, step, means)
        )


def speed(work: Work, steps_per_second: float, peak: float | None) -> dict[str, float]:
    """Samples a second of all devices, operations a second of each, and their share of its peak."""
    found = {"speed/samples_per_second": work.samples * steps_per_second}
    if work.flops:
        each = work.flops * steps_per_second / jax.device_count()
        found["speed/flops_per_device"] = each
        found |= {"speed/mfu": each / peak} if peak else {}
    return found


def memory() -> dict[str, float]:
    """The most bytes so far: of this process, and of its fullest device where that keeps count."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"memory/host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * float(unit)}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [float(one["peak_bytes_in_use"]) for one in stats if "peak_bytes_in_use" in one]
    return found | ({"memory/device_bytes": max(peaks)} if peaks else {})


def learning_rates(
    rates: Mapping[str, Rate], step: int, means: Mapping[str, float]
) -> dict[str, float]:
    """The rates of the last updates; a skipped one leaves its schedule where it is."""
    found = {}
    for name, skipped in means.items():
        network = name.removesuffix(SKIPPED)
        rate = rates.get(network.rpartition("/")[2])
        if name.endswith(SKIPPED) and rate is not None:
            made = rate.pace.made(step) - round(skipped)
            found[f"{network}/learning_rate"] = rate.of(max(0, made - 1))
    return found
