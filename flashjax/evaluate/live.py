"""A page about a job at work: its figures, curves and last samples, written again and again.

One HTML file with nothing beside it, which loads itself anew. How it looks stands in
assets/live.html.j2.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.evaluate.report import Record, environment, panels, write_page
from flashjax.train.metrics import MetricWriter
from flashjax.train.progress import FIGURES

PAGE = "live.html"
REFRESH_SECONDS = 20.0
POINTS = 400  # of a curve that are drawn
PACE = "time/step_seconds"
NAMES = {  # metric: how it is called
    "speed/samples_per_second": "samples a second",
    "speed/flops_per_device": "a device",
    "speed/mfu": "of the peak",
    "time/goodput": "goodput",
    "memory/device_bytes": "the fullest device",
    "memory/host_bytes": "the host",
}


class LivePage(MetricWriter):
    """The page of the job `name`, which ends at the step `stop`; `records` are those so far.

    It is written at most every REFRESH_SECONDS, and at the end.
    """

    def __init__(self, path: Path, name: str, stop: int, records: Sequence[Record] = ()) -> None:
        self._path, self._name, self._stop = path, name, stop
        self._records = [record for record in records if "step" in record]
        self._images: dict[str, np.ndarray] = {}
        self._next = time.monotonic()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        values = {name: float(value) for name, value in scalars.items()}
        self._records.append({"step": step, **values})
        if time.monotonic() >= self._next:
            self.flush()

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        self._images |= {f"{name}, step {step:,}": np.asarray(x) for name, x in images.items()}
        for name in list(self._images)[: -len(images)]:
            del self._images[name]

    def flush(self) -> None:
        self._write(ended=False)
        self._next = time.monotonic() + REFRESH_SECONDS

    def close(self) -> None:
        self._write(ended=True)

    def _write(self, *, ended: bool) -> None:
        if self._records:
            write_page(self._path, self._render(ended))

    def _render(self, ended: bool) -> str:
        last = self._records[-1]
        timed = next((r for r in reversed(self._records) if PACE in r), last)  # not a judge's
        drawn = thinned(self._records)
        return (
            environment()
            .get_template("live.html.j2")
            .render(
                name=self._name,
                step=last["step"],
                stop=self._stop,
                remaining=timed.get(PACE, 0.0) * (self._stop - last["step"]),
                ended=ended,
                refresh=round(REFRESH_SECONDS),
                written=time.strftime("%H:%M:%S"),
                figures=told(timed),
                account=account(timed),
                panels=panels({"": drawn}),
                images=self._images,
            )
        )


def thinned(records: Sequence[Record]) -> list[Record]:
    """At most POINTS of the records, evenly, the last one among them."""
    stride = -(-len(records) // POINTS)
    return list(records[::-1][::stride][::-1]) if stride > 1 else list(records)


def told(record: Record) -> list[tuple[str, str]]:
    """The figures of the machine in words: what, how much."""
    pace = record.get(PACE)
    step = [("a step", f"{pace:.3g} s")] if pace is not None else []
    return step + [
        (what, FIGURES[name](record[name])) for name, what in NAMES.items() if name in record
    ]


def account(record: Record) -> dict[str, float]:
    """Seconds by category (train/goodput.py)."""
    ends = ("goodput/", "_seconds")
    return {
        name.removeprefix(ends[0]).removesuffix(ends[1]): value
        for name, value in record.items()
        if name.startswith(ends[0]) and name.endswith(ends[1])
    }
