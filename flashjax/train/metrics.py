"""Metrics to disk: TensorBoard event files and JSON lines, behind the interface of clu's writers.

The methods are those of `clu.metric_writers.MetricWriter`, so a clu writer can take their place;
clu's own package is not imported because it imports TensorFlow.
"""

import contextlib
import functools
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import jax
import numpy as np

from flashjax.types import Metrics

CURVES = "metrics.jsonl"
IN_ROW = "/skipped_in_row"
COUNTS = ("/skipped", IN_ROW)  # of a network's updates


class MetricWriter:
    """What the stages need of `clu.metric_writers.MetricWriter`; a writer leaves out what it has
    no place for.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Scalars by name."""

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Images by name: "n h w c" or "h w c", uint8 or floats in [0, 1]."""

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        """What values arrays have, by name."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Texts by name."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """The configuration, once."""

    def flush(self) -> None:
        """Put what was written on disk."""

    def close(self) -> None:
        """Flush and end."""


@functools.cache
def tensorboard() -> ModuleType:
    """tensorboardX. Where torch is installed it would import that too: seconds, for nothing."""
    absent: Any = None
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = absent
    try:
        return importlib.import_module("tensorboardX")
    finally:
        if hide:
            del sys.modules["torch"]


class EventWriter(MetricWriter):
    """TensorBoard event files in `folder`, without TensorFlow."""

    def __init__(self, folder: Path | str) -> None:
        self._writer = tensorboard().SummaryWriter(str(folder))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        for name, image in images.items():
            batch = np.asarray(image)
            batch = batch if batch.ndim == 4 else batch[None]
            self._writer.add_images(name, batch, step, dataformats="NHWC")

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        for name, array in arrays.items():
            self._writer.add_histogram(name, np.asarray(array), step)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """As text, and for the page of hyper-parameters."""
        self._writer.add_text("hparams", f"    {json.dumps(dict(hparams))}", 0)
        plain = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in hparams.items()
        }
        for summary in tensorboard().summary.hparams(plain, {}):
            self._writer.file_writer.add_summary(summary)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class JsonlWriter(MetricWriter):
    """One JSON object per call, appended to `path`; images are left to TensorBoard."""

    def __init__(self, path: Path | str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._write(step=step, **{name: float(value) for name, value in scalars.items()})

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._write(step=step, **texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        if not self._file.tell():  # a job that begins anew has said them
            self._write(hparams=dict(hparams))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **record: Any) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def records(path: Path) -> list[dict[str, Any]]:
    """What a `JsonlWriter` wrote to a file that may not be there.

    A line that is written just now is none, nor are zeros that a host leaves when it goes down.
    """
    found = []
    for line in path.read_text(errors="replace").splitlines(True) if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line) if line.endswith("\n") else None)
    return [record for record in found if isinstance(record, dict)]


class MultiWriter(MetricWriter):
    """Several writers as one."""

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write_images(step, images)

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        for writer in self._writers:
            writer.write_histograms(step, arrays, num_buckets)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for writer in self._writers:
            writer.write_texts(step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write_hparams(hparams)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def make_writer(folder: Path | str, *others: MetricWriter) -> MultiWriter:
    """TensorBoard events and `metrics.jsonl` in `folder`, and `others`."""
    return MultiWriter([EventWriter(folder), JsonlWriter(Path(folder) / CURVES), *others])


# More figures after a step: its number, how many steps the means are of, and the means.
Figures: TypeAlias = Callable[[int, int, Mapping[str, float]], Mapping[str, float]]


class Broken(FloatingPointError):
    """Numbers are none at `step`, or were since the last record before it."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class MetricsHook:
    """A loop hook: every `steps` steps, and at the step `stop`, the means since then are written.

    What steps say stays on the device. It is fetched and checked while the next step is under way,
    so that no device waits for the host; after the step `stop`, and before a save, at once. Of a
    network whose update was skipped, that step's figures do not count; `most_skipped` of them in a
    row are too many. `more` figures are added, and "time/step_seconds" where it is none of them.
    """

    def __init__(
        self,
        writer: MetricWriter,
        *,
        steps: int,
        stop: int | None = None,
        most_skipped: int | None = None,
        more: Figures = lambda step, steps, means: {},
    ) -> None:
        self._writer, self._more = writer, more
        self._steps, self._stop, self._most = steps, stop, most_skipped
        self._due: list[tuple[int, Metrics]] = []  # on its way to the host
        self._told: list[tuple[int, Metrics]] = []
        self._since = time.monotonic()

    def __call__(self, step: int, state: Any, metrics: Metrics) -> None:
        self._write()
        self._told.append((step, metrics))
        if step % self._steps == 0 or step == self._stop:
            self._due, self._told = self._told, []
            for value in jax.tree.leaves([told for _, told in self._due]):
                value.copy_to_host_async()
        if step == self._stop:
            self._write()

    def check(self, step: int) -> Mapping[str, float]:
        """The means since the last record. Broken where one is none, or too much was
        skipped: not to be saved.

        What was not skipped, with losses and norms of gradients that are finite at every step,
        leaves a finite state.
        """
        self._write()
        return self._means(self._told, step)

    def _means(self, told: Sequence[tuple[int, Metrics]], step: int) -> dict[str, float]:
        fetched = jax.device_get(told)
        if self._most:
            check_skipped(fetched, self._most)
        means = summary([metrics for _, metrics in fetched])
        check_finite(means, step)
        return means

    def _write(self) -> None:
        """The record that is due, if one is."""
        if not self._due:
            return
        step, count = self._due[-1][0], len(self._due)
        means = self._means(self._due, step)
        now = time.monotonic()
        seconds = {"time/step_seconds": (now - self._since) / count}
        self._writer.write_scalars(step, {**means, **seconds, **self._more(step, count, means)})
        self._due, self._since = [], now


def summary(told: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over steps by name, without those of skipped updates; of counts the largest."""
    values: dict[str, list[float]] = {}
    for metrics in told:
        for name, value in metrics.items():
            counted = name.endswith(COUNTS)
            if counted or not metrics.get(name.rpartition("/")[0] + IN_ROW, 0):
                values.setdefault(name, []).append(float(value))
    return {
        name: max(found) if name.endswith(COUNTS) else sum(found) / len(found)
        for name, found in values.items()
    }


def check_skipped(told: Sequence[tuple[int, Mapping[str, Any]]], most: int) -> None:
    """Raise Broken for networks that skipped `most` updates in a row."""
    for step, metrics in told:
        many = [
            name.removesuffix(IN_ROW)
            for name, value in metrics.items()
            if name.endswith(IN_ROW) and value >= most
        ]
        if many:
            raise Broken(
                step,
                f"{most} updates in a row of {', '.join(sorted(many))} were skipped up to step "
                f"{step}, for losses or gradients that are not finite, or spike",
            )


def check_finite(metrics: Mapping[str, Any], step: int) -> None:
    """Raise Broken that names every metric that is NaN or infinite."""
    broken = [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise Broken(step, f"training broke at or before step {step}: {', '.join(broken)}")
