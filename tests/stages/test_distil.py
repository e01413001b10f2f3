"""The sentence of distillation: its steps compile while weights are read."""

import dataclasses
import logging
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from flashjax.data.pipeline import Ahead, batches
from flashjax.parallel.prepared import Prepared
from flashjax.stages import distil
from flashjax.stages.stage import read_stage
from flashjax.types import InputError

JOB = {"steps": 3, "batch_size": 4, "log_steps": 1, "checkpoint_steps": 3}
OWN = "json.decoder:JSONDecoder"  # somebody's code
SAMPLES = np.arange(12.0, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A setting of one number."""

    frozen: object

    def abstract_batch(self, size):
        return jax.ShapeDtypeStruct((size,), jnp.float32)

    def batches(self, size, *, seed):
        return Ahead(
            batches(SAMPLES, batch_size=size, seed=seed), lambda rows: jnp.asarray(np.asarray(rows))
        )


SHAPES = Toy(jax.ShapeDtypeStruct((), jnp.float32))


def method(step):
    """Trains a weight; the step is given as it is before it is jitted."""
    prepared = Prepared(jax.jit(step, donate_argnums=0))

    def advance(state, frozen, drawn, key):
        (batch,) = drawn
        return prepared(state, frozen, batch, key)

    def begin(frozen):
        return {"weight": frozen + 0.0}

    abstract = {"weight": jax.ShapeDtypeStruct((), jnp.float32)}
    return distil.Method(abstract, begin, advance, (prepared,), lambda state: state)


def run(workdir, step, **job):
    kept = []
    config = ConfigDict({"seed": 0, "toy": {"job": JOB | job}})
    distil.distil(
        "toy",
        config,
        workdir,
        section={},
        inputs={},
        setting=lambda: SHAPES,
        method=lambda setting: method(step),
        keep=lambda folder, state, setting: kept.append((state, setting)),
    )
    return kept


def test_a_step_is_compiled_once_and_before_the_weights_are_there(monkeypatch, tmp_path, compiled):
    began = threading.Event()

    def a_toy_step(state, frozen, batch, key):
        began.set()
        weight = state["weight"] + frozen * batch.mean()
        return {"weight": weight}, {"toy/loss": weight}

    def read(config, workdir, setting):
        assert setting is SHAPES and began.wait(60)
        return Toy(jnp.float32(2))

    monkeypatch.setattr(distil, "read_setting", read)
    ((state, setting),) = run(tmp_path, a_toy_step)
    assert setting.frozen == 2  # what is kept, drawn and judged has the weights
    np.testing.assert_allclose(state["weight"], 2 + 2 * SAMPLES.mean() * 3)
    assert len([name for name in compiled if "a_toy_step" in name]) == 1


def test_a_job_that_has_all_its_steps_compiles_none(monkeypatch, tmp_path):
    """It was killed after its last save: what it saved is kept, and no more is trained."""
    seen = []

    def step(state, frozen, batch, key):
        seen.append(batch)
        return state, {"toy/loss": state["weight"]}

    monkeypatch.setattr(distil, "read_setting", lambda *_: Toy(jnp.float32(2)))
    run(tmp_path, step)
    assert len(seen) == 1
    record = tmp_path / "toy" / "stage.json"
    record.write_text(record.read_text().replace('"done"', '"running"'))
    assert len(run(tmp_path, step)) == 1 and len(seen) == 1
    assert read_stage(tmp_path / "toy")["status"] == "done"


def test_what_the_trace_of_a_step_refuses_ends_the_stage_as_itself(monkeypatch, tmp_path):
    def step(state, frozen, batch, key):
        raise InputError("toy.taps=9: there are 2 blocks")

    monkeypatch.setattr(distil, "read_setting", lambda *_: Toy(jnp.float32(2)))
    with pytest.raises(InputError) as refused:
        run(tmp_path, step)
    assert refused.value.args == ("toy.taps=9: there are 2 blocks",)


def test_steps_are_told_all_that_they_are_made_of_but_not_of_code_that_is_not_ours(
    monkeypatch, tmp_path, caplog
):
    """What such code imports is not known: nobody could say whether it has changed."""
    config = ConfigDict({"seed": 0, "toy": {"job": JOB, "rate": 1.0}, "data": {"source": OWN}})
    (tmp_path / "import").mkdir()
    model = tmp_path / "import" / "model.json"

    def origins(name="toy"):
        told = []
        steps = [types.SimpleNamespace(comes_from=told.append) for _ in range(2)]
        distil.with_origin(types.SimpleNamespace(steps=steps), name, config, tmp_path)
        return told

    seen = origins()
    model.write_text('{"shift": 3.0}')
    seen += origins()
    config.toy.rate = 2.0
    seen += origins()
    seen += origins("match")
    assert len(set(seen)) == len(seen) == 8  # of data of one's own, too: a step sees its shapes
    config.toy.gradient = OWN
    with caplog.at_level(logging.INFO):
        assert origins() == []
    assert "toy: its steps are traced at every start" in caplog.text and OWN in caplog.text


def test_the_peak_of_a_cpu_is_measured_before_anything_compiles(monkeypatch, tmp_path):
    order = []
    prepare = Prepared.prepare

    def noted(self, *shapes):
        order.append("compile")
        prepare(self, *shapes)

    monkeypatch.setattr(distil, "device_peak", lambda: order.append("peak"))
    monkeypatch.setattr(Prepared, "prepare", noted)
    monkeypatch.setattr(distil, "read_setting", lambda *_: Toy(jnp.float32(2)))

    def a_step(state, frozen, batch, key):
        return state, {"toy/loss": batch.mean()}

    run(tmp_path, a_step)
    assert order[:2] == ["peak", "compile"]
