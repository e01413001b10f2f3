"""A training job: stopped by a signal, it saves everything and goes on as if nothing had been."""

import dataclasses
import json
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import Checkpoints
from flashjax.data.pipeline import Ahead, batches
from flashjax.evaluate.judge import Figure
from flashjax.stages.training import JobConfig, Watched, curves, forget_after, run_job
from flashjax.train.average import AverageConfig
from flashjax.train.loop import Interrupted
from flashjax.train.speed import Work
from flashjax.train.state import Descent, TrainState, descend, init_state
from flashjax.types import InputError

JOB = JobConfig(steps=8, batch_size=2, log_steps=2, checkpoint_steps=100)
SAMPLES = np.arange(12.0, dtype=np.float32)


def init():
    return {"w": jnp.zeros(()), "step": jnp.zeros((), jnp.int32)}


@jax.jit
def advance(state, batch):
    weight = state["w"] * 0.9 + batch.sum() * (1 + state["step"])
    return {"w": weight, "step": state["step"] + 1}, {"toy/loss": weight}


def run(folder, *, stop_at: int | None = None, stop=lambda number: None):
    """One start of the job; a SIGTERM arrives during step `stop_at`."""
    calls = iter(range(1, JOB.steps + 1))

    def step(state, batch):
        if next(calls) == stop_at:
            stop(signal.SIGTERM)
        return advance(state, batch)

    data = Ahead(batches(SAMPLES, batch_size=JOB.batch_size, seed=0), np.asarray)
    abstract = jax.eval_shape(init)
    return run_job("toy", folder, JOB, step=step, init=init, abstract=abstract, data=data)


def test_an_interrupted_job_ends_as_an_uninterrupted_one(tmp_path, tell_myself):
    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path / "parts", stop_at=3, stop=tell_myself)
    assert stopped.value.step == 3
    resumed = run(tmp_path / "parts")
    assert int(resumed["step"]) == JOB.steps
    np.testing.assert_array_equal(resumed["w"], whole["w"])


def test_the_wait_for_the_first_step_is_said_once_a_start(tmp_path, caplog):
    with caplog.at_level("INFO"):
        run(tmp_path)
    (line,) = [line for line in caplog.messages if "first step" in line]
    said = r"toy: first step \d+\.\d s after the command, itself \d+\.\d s, on 8 x cpu"
    assert re.fullmatch(said, line)


def test_the_metrics_of_a_job_are_kept_as_records(tmp_path):
    run(tmp_path)
    records = [record for record in curves(tmp_path) if "toy/loss" in record]
    assert [record["step"] for record in records] == [2, 4, 6, 8]
    assert all(record["time/step_seconds"] > 0 for record in records)


def test_curves_have_what_other_processes_alone_wrote(tmp_path):
    """Of branches on devices of several processes each writes its own."""
    for name, branch, loss in (("metrics", "hi", 1.0), ("metrics-1", "lo", 2.0)):
        (tmp_path / name).mkdir()
        record = {"step": 4, f"{branch}/loss": loss, "time/step_seconds": loss}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    assert curves(tmp_path) == [{"step": 4, "hi/loss": 1.0, "lo/loss": 2.0, "time/step_seconds": 1}]


def test_a_step_that_is_trained_again_is_recorded_once(tmp_path, tell_myself):
    """A job that was killed after its last save goes back to it; a line may be cut in two."""
    with pytest.raises(Interrupted):
        run(tmp_path, stop_at=5, stop=tell_myself)
    path = tmp_path / "metrics" / "metrics.jsonl"
    later = '{"step": 6, "toy/loss": 99.0}\n'
    path.write_text(path.read_text() + later + later[:9])
    assert [record["step"] for record in curves(tmp_path)][-1] == 6  # what is whole is read
    run(tmp_path)
    assert [record["step"] for record in curves(tmp_path)] == [2, 4, 6, 8]
    assert 99.0 not in [record["toy/loss"] for record in curves(tmp_path)]


def test_what_a_host_lost_of_a_file_of_metrics_stops_no_job(tmp_path):
    path = tmp_path / "metrics" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_bytes(b'{"step": 1, "loss": NaN}\n\0\0\0\xff{"step": 2}\n3\n{"step": 4}\n{"st')
    assert [record["step"] for record in curves(tmp_path)] == [1, 4]
    forget_after(path, 3)
    assert path.read_text() == '{"step": 1, "loss": NaN}\n'
    forget_after(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()


def test_a_job_that_begins_anew_has_the_curves_of_its_own_start_alone(tmp_path):
    """They go when nothing can refuse it any more; not before."""
    for name in ("metrics/events.out.tfevents.1", "metrics/metrics.jsonl", "metrics-3/events"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"step": 1, "toy/loss": 99.0}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("metrics*/*")}

    def refuse(count):
        raise InputError("evaluate.judges names nobody who can judge here")

    job = dataclasses.replace(JOB, judge_steps=100)
    data = Ahead(batches(SAMPLES, batch_size=JOB.batch_size, seed=0), np.asarray)
    given = dict(step=advance, init=init, abstract=jax.eval_shape(init), data=data)
    with pytest.raises(InputError, match="names nobody"):
        run_job("toy", tmp_path, job, **given, watched=Watched(Work(2), judge=refuse))
    assert {path: path.read_bytes() for path in tmp_path.rglob("metrics*/*")} == before
    run(tmp_path)
    assert not any(path.exists() for path in before if path.name != "metrics.jsonl")
    assert 99.0 not in [record.get("toy/loss") for record in curves(tmp_path)]


def test_the_first_step_waits_for_nothing_that_draws_and_what_cannot_draw_refuses_soon(
    tmp_path,
):
    """To read a decoder takes seconds, a model's minutes: only pictures need it.

    After the second step a signal ends nothing before all is saved.
    """
    happened = []

    def counted(state, batch):
        happened.append("step")
        return advance(state, batch)

    def pictures():
        happened.append("made ready")
        return lambda state: happened.append("draw") or {"grid": np.zeros((4, 4, 3), np.uint8)}

    job = dataclasses.replace(JOB, steps=4, sample_steps=3)
    data = Ahead(batches(SAMPLES, batch_size=JOB.batch_size, seed=0), np.asarray)
    given = dict(step=counted, init=init, abstract=jax.eval_shape(init), data=data)
    run_job("toy", tmp_path / "run", job, **given, watched=Watched(Work(2), pictures))
    assert happened == ["step", "step", "made ready", "step", "draw", "step", "draw"]

    def refuse():
        raise InputError("the decoder is damaged")

    with pytest.raises(InputError, match="decoder"):
        run_job("toy", tmp_path / "refused", job, **given, watched=Watched(Work(2), refuse))
    assert happened[7:] == ["step", "step"] and not [
        *(tmp_path / "refused" / "checkpoints").iterdir()
    ]


def test_a_finished_job_keeps_its_newest_checkpoint(tmp_path):
    job = dataclasses.replace(JOB, checkpoint_steps=2, keep=3, milestone_steps=4)
    data = Ahead(batches(SAMPLES, batch_size=JOB.batch_size, seed=0), np.asarray)
    abstract = jax.eval_shape(init)
    run_job("toy", tmp_path, job, step=advance, init=init, abstract=abstract, data=data)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "8"}


def test_a_job_of_nothing_is_refused():
    for name in ("steps", "batch_size", "log_steps", "checkpoint_steps", "stall_seconds"):
        config = ConfigDict({"job": dataclasses.asdict(JOB) | {name: 0}})
        with pytest.raises(InputError, match=rf"job\.{name}=0.*: give (1 or more|more than 0)"):
            configs.section(config, "job", JobConfig)


def test_a_job_whose_numbers_break_between_two_records_is_stopped_and_not_saved(tmp_path):
    def broken(state, batch):
        state, metrics = advance(state, batch)
        return state, {"toy/loss": metrics["toy/loss"] / (state["step"] != 3)}

    job = dataclasses.replace(JOB, steps=4, log_steps=10, checkpoint_steps=2)
    data = Ahead(batches(SAMPLES, batch_size=JOB.batch_size, seed=0), np.asarray)
    abstract = jax.eval_shape(init)
    with pytest.raises(FloatingPointError, match=r"at or before step 4: toy/loss = inf"):
        run_job("toy", tmp_path, job, step=broken, init=init, abstract=abstract, data=data)
    assert Checkpoints(tmp_path / "checkpoints").latest_step() == 2  # what is kept is finite


def test_a_job_that_skips_too_often_ends_in_one_line_and_goes_on_from_its_last_save(tmp_path):
    """The batches from step 4 on give no gradient; what was saved before is whole."""
    descent = Descent(optax.sgd(0.1), AverageConfig(decay=0.5))

    @jax.jit
    def step(state, batch):
        sound = jnp.where(state.step < 3, 1.0, jnp.nan)
        grads = {"w": sound * batch.mean()}
        learner, metrics = descend("toy", state.learner, grads, {}, descent)
        return TrainState(step=state.step + 1, learner=learner), metrics

    def start():
        return init_state({"w": jnp.ones(())}, descent)

    def train(**changes):
        job = dataclasses.replace(JOB, steps=40, log_steps=5, checkpoint_steps=2, **changes)
        data = Ahead(batches(SAMPLES, batch_size=JOB.batch_size, seed=0), np.asarray)
        abstract = jax.eval_shape(start)
        return run_job("toy", tmp_path, job, step=step, init=start, abstract=abstract, data=data)

    with pytest.raises(
        FloatingPointError,
        match=r"toy: 5 updates in a row of toy .* step 8, .* the last save is of",
    ):
        train(most_skipped=5)
    *_, last = json.loads((tmp_path / "hosts" / "batches.json").read_text())
    replayed = batches(SAMPLES, batch_size=JOB.batch_size, seed=0)
    drawn = [(next(replayed), replayed.chosen())[1] for _ in range(8)][-1]
    assert last == {"step": 8, "batches": [{"bucket": 0, "rows": drawn[0][1]}]}
    saved = Checkpoints(tmp_path / "checkpoints")
    assert saved.latest_step() == 6
    state, _ = saved.restore(6, jax.eval_shape(start))
    assert np.isfinite(state.learner.params["w"]) and state.learner.tally.updates == 3
    end = train(most_skipped=100)  # and it may be told to go on
    np.testing.assert_array_equal(end.learner.params["w"], state.learner.params["w"])
    assert (int(end.learner.tally.updates), int(end.learner.tally.skipped)) == (3, 37)


def test_a_job_keeps_the_checkpoint_that_its_judge_likes_best(tmp_path):
    job = dataclasses.replace(JOB, steps=8, checkpoint_steps=2, keep=1, judge_steps=2)
    merits = {2: 5.0, 4: 1.0, 6: 7.0, 8: 2.0}  # of a figure of which less is better
    judge = lambda count: (
        lambda state: Figure("Distance", merits[int(state["step"])], better="less")
    )
    data = Ahead(batches(SAMPLES, batch_size=JOB.batch_size, seed=0), np.asarray)
    asked = {"step": advance, "init": init, "abstract": jax.eval_shape(init), "data": data}
    run_job("toy", tmp_path, job, **asked, watched=Watched(Work(1), judge=judge))
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {4, 8}  # and the newest
    told = {line["step"]: line["judge/Distance"] for line in curves(tmp_path) if len(line) == 2}
    assert told == merits


@pytest.mark.parametrize("key", ["judge_steps", "milestone_steps"])
def test_what_is_judged_or_stays_is_to_be_saved(key):
    with pytest.raises(InputError, match=rf"{key}=3 is no multiple of checkpoint_steps=2"):
        dataclasses.replace(JOB, checkpoint_steps=2, **{key: 3})


def test_milestones_may_be_denser_than_what_is_saved():
    """All that is saved stays then: a recipe's milestones are no hindrance to rarer saves."""
    assert dataclasses.replace(JOB, checkpoint_steps=4, milestone_steps=2).milestone_steps == 2
