"""Metric writers: readable files, clu's interface, and a guard against NaN."""

import ast
import importlib.util
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from flashjax.train import metrics


def _events(folder):
    """Events of the files in `folder`, by the record format: length u64, crc, data, crc."""
    for path in Path(folder).glob("events.*"):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_scalars_and_images_reach_both_files(tmp_path):
    writer = metrics.make_writer(tmp_path)
    writer.write_hparams({"seed": 1})
    writer.write_scalars(5, {"student/loss": jnp.float32(0.5)})
    writer.write_images(5, {"grid": np.zeros((4, 6, 3), np.uint8)})
    writer.close()
    values = {v.tag: (e.step, v) for e in _events(tmp_path) for v in e.summary.value}
    step, value = values["student/loss"]
    assert (step, value.simple_value) == (5, 0.5)
    assert (values["grid"][1].image.height, values["grid"][1].image.width) == (4, 6)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"hparams": {"seed": 1}}, {"step": 5, "student/loss": 0.5}]


def test_methods_are_those_of_clu():
    """Read as source: importing clu's writers would import TensorFlow."""
    folder = importlib.util.find_spec("clu").submodule_search_locations[0]
    tree = ast.parse((Path(folder) / "metric_writers" / "interface.py").read_text())
    theirs = {
        n.name: [a.arg for a in n.args.args]
        for n in ast.walk(tree)
        if hasattr(n, "args") and isinstance(n, ast.FunctionDef)
    }
    for writer in (metrics.EventWriter, metrics.JsonlWriter, metrics.MultiWriter):
        for name in (
            "write_scalars",
            "write_images",
            "write_histograms",
            "write_texts",
            "write_hparams",
            "flush",
            "close",
        ):
            assert list(inspect.signature(getattr(writer, name)).parameters) == theirs[name]


def test_hook_writes_means_of_the_steps_that_had_the_metric(tmp_path):
    writer = metrics.JsonlWriter(tmp_path / "m.jsonl")
    hook = metrics.MetricsHook(writer, steps=4, stop=8)
    for step in range(1, 9):
        extra = {"fake/loss": jnp.float32(step)} if step % 2 else {}
        hook(step, None, {"student/loss": jnp.float32(step), **extra})
    writer.close()
    first, second = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert (first["step"], first["student/loss"], first["fake/loss"]) == (4, 2.5, 2.0)
    assert (second["step"], second["student/loss"], second["fake/loss"]) == (8, 6.5, 6.0)
    assert first["time/step_seconds"] > 0


def test_a_step_takes_what_whoever_keeps_the_account_says(tmp_path):
    """A record's own interval has in it what was compiled, drawn and saved meanwhile."""
    writer = metrics.JsonlWriter(tmp_path / "m.jsonl")
    account = lambda step, steps, means: {"time/step_seconds": 2.5}
    hook = metrics.MetricsHook(writer, steps=1, stop=1, more=account)
    hook(1, None, {"student/loss": jnp.float32(1)})
    writer.close()
    assert json.loads((tmp_path / "m.jsonl").read_text())["time/step_seconds"] == 2.5


def test_one_nan_in_the_window_stops_the_run(tmp_path):
    hook = metrics.MetricsHook(metrics.JsonlWriter(tmp_path / "m.jsonl"), steps=3, stop=3)
    hook(1, None, {"student/loss": jnp.float32(1), "fake/loss": jnp.float32("nan")})
    hook(2, None, {"student/loss": jnp.float32(1), "fake/loss": jnp.float32(1)})
    with pytest.raises(FloatingPointError, match="step 3: fake/loss = nan"):
        hook(3, None, {"student/loss": jnp.float32(1), "fake/loss": jnp.float32(1)})


def test_what_is_not_finite_between_two_records_is_found_before_it_is_saved(tmp_path):
    hook = metrics.MetricsHook(metrics.make_writer(tmp_path), steps=10)
    hook(1, None, {"loss": jnp.asarray(1.0)})
    assert hook.check(1) == {"loss": 1.0}
    hook(2, None, {"loss": jnp.asarray(jnp.nan)})
    hook(3, None, {"loss": jnp.asarray(1.0)})
    with pytest.raises(FloatingPointError, match="at or before step 3: loss = nan"):
        hook.check(3)


def test_the_last_step_is_written_whatever_the_interval(tmp_path):
    writer = metrics.make_writer(tmp_path)
    hook = metrics.MetricsHook(writer, steps=10, stop=4)
    for step in range(1, 5):
        hook(step, None, {"loss": jnp.asarray(float(step))})
    writer.close()
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert record["step"] == 4 and record["loss"] == 2.5


def skipping(network, in_row, **more):
    """What a step says of a network that has skipped `in_row` updates."""
    counts = {f"{network}/skipped": in_row, f"{network}/skipped_in_row": in_row}
    return {name: jnp.float32(value) for name, value in {**counts, **more}.items()}


def test_a_skipped_update_is_counted_and_its_figures_are_not(tmp_path):
    """Per network, and per branch: another network's NaN at that step is an error."""
    hook = metrics.MetricsHook(metrics.make_writer(tmp_path), steps=3, most_skipped=3)
    nan = {"lo/student/loss": jnp.nan}
    hook(1, None, skipping("lo/student", 0, **{"lo/student/loss": 1.0, "hi/student/loss": 5.0}))
    hook(2, None, skipping("lo/student", 1, **nan, **{"hi/student/loss": 7.0}))
    hook(3, None, skipping("lo/student", 2, **nan, **{"hi/student/loss": 6.0}))
    hook(4, None, skipping("lo/student", 1, **{"hi/student/loss": jnp.nan}))
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert (record["lo/student/loss"], record["hi/student/loss"]) == (1.0, 6.0)
    assert (record["lo/student/skipped"], record["lo/student/skipped_in_row"]) == (2.0, 2.0)
    with pytest.raises(FloatingPointError, match="hi/student/loss = nan"):
        hook.check(4)


def test_too_many_skipped_in_a_row_stop_the_run_even_if_they_are_over(tmp_path):
    hook = metrics.MetricsHook(metrics.make_writer(tmp_path), steps=10, most_skipped=3)
    for step, in_row in enumerate((0, 1, 2, 3, 0), start=1):
        hook(step, None, skipping("lo/fake", in_row) | skipping("lo/heads", 0))
    with pytest.raises(FloatingPointError, match=r"3 updates in a row of lo/fake .* step 4"):
        hook.check(5)


class Slow:
    """An array that is on its way: reading it before it is there is noticed."""

    def __init__(self, value, read):
        self._value, self._read, self.started = value, read, False

    def copy_to_host_async(self):
        self.started = True

    def __array__(self, dtype=None, copy=None):
        self._read.append((self._value, self.started))
        return np.asarray(self._value, dtype)


def test_a_record_is_fetched_while_the_next_step_is_under_way(tmp_path):
    """No step waits for the host: its figures are read once the next one has begun."""
    read = []
    hook = metrics.MetricsHook(metrics.make_writer(tmp_path), steps=2, stop=5)
    for step in range(1, 5):
        hook(step, None, {"loss": Slow(float(step), read)})
        if step == 2:
            assert not read
        if step == 3:
            assert {value for value, _ in read} == {1.0, 2.0} and all(done for _, done in read)
    hook.check(4)  # before a save everything is looked at, and what is due is written
    assert {value for value, _ in read} == {1.0, 2.0, 3.0, 4.0}
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [(record["step"], record["loss"]) for record in records] == [(2, 1.5), (4, 3.5)]


def test_no_torch_is_imported_to_write_metrics(tmp_path):
    """Nor is it hidden from others afterwards."""
    code = """
        import sys, numpy as np
        from flashjax.train.metrics import EventWriter
        writer = EventWriter(sys.argv[1])
        writer.write_scalars(1, {"a": 1.0})
        writer.write_images(1, {"b": np.zeros((2, 2, 3), np.uint8)})
        writer.write_histograms(1, {"c": np.ones(3)})
        writer.write_hparams({"d": 1, "e": [1, 2]})
        writer.close()
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=True)
    tags = {value.tag for event in _events(tmp_path) for value in event.summary.value}
    assert {"a", "b", "c", "_hparams_/experiment"} <= tags
