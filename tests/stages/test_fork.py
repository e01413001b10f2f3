"""A fork: the state of an old stage's checkpoint, another config, in a workdir of its own."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from flashjax.data.pipeline import Ahead, batches
from flashjax.stages import fork
from flashjax.stages.fork import forked
from flashjax.stages.refused import withdrawn_folders
from flashjax.stages.stage import held, read_stage, run_stage, steps_saved, write_json
from flashjax.stages.training import JobConfig, run_job
from flashjax.types import InputError


def _config(steps, rate=1.0):
    return ConfigDict({"seed": 0, "guide": {"job": {"steps": steps}, "rate": rate}})


def _guide(config, workdir):
    def body(folder):
        @jax.jit
        def advance(state, batch):
            return {"w": state["w"] + config.guide.rate}, {"toy/loss": state["w"]}

        job = JobConfig(config.guide.job.steps, 2, log_steps=1, checkpoint_steps=2)
        data = Ahead(batches(np.arange(8.0), batch_size=2, seed=0), np.asarray)
        abstract = {"w": jax.ShapeDtypeStruct((), jnp.float32)}
        state = run_job(
            "guide",
            folder,
            job,
            step=advance,
            init=lambda: {"w": jnp.zeros(())},
            abstract=abstract,
            data=data,
        )
        return {"w": float(state["w"])}

    return run_stage("guide", config.guide, workdir, body, inputs={}, seed=0)


def test_a_fork_goes_on_from_the_old_state_with_its_own_config(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    assert _guide(_config(4), old) == {"w": 4.0}
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    longer = _config(7, rate=10.0)
    with forked(old / "guide", longer, new, "guide"):
        assert _guide(longer, new) == {"w": 34.0}
    assert _guide(longer, new) == {"w": 34.0}
    record = read_stage(new / "guide")
    assert record["forked"] == {"from": str(old / "guide"), "step": 4} and record["changes"] == []
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_a_branch_of_its_own_job_is_forked_to_its_own_folder(tmp_path):
    """Elsewhere its job would not find the checkpoint, and begin anew without a word."""
    _guide(_config(4), tmp_path / "old")
    config = ConfigDict({"seed": 0, "split": {"only": "lo", "job": {"steps": 6}}})
    new = tmp_path / "new"
    with forked(tmp_path / "old/guide", config, new, "split"):
        assert steps_saved(new / "split-lo") == [4] and not (new / "split").exists()


def test_what_cannot_be_forked_is_said(tmp_path):
    _guide(_config(4), tmp_path)
    for origin, steps, workdir, verb, said in (
        ("guide", 4, "new", "guide", "step 4 is no earlier than the end"),
        ("guide", 5, ".", "guide", "has begun"),
        ("match", 5, "new", "guide", "has no checkpoints"),
        ("guide", 5, "new", "export", "--fork goes with guide, match, split, not with export"),
    ):
        place = tmp_path / workdir
        with (
            pytest.raises(InputError, match=said),
            forked(tmp_path / origin, _config(steps), place, verb),
        ):
            pytest.fail("it was forked")
    assert not (tmp_path / "new").exists()


def _files(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("before", ["nothing", "an interrupted start"])
def test_a_stage_that_is_refused_leaves_nothing_of_its_fork(tmp_path, before):
    _guide(_config(4), tmp_path / "old")
    workdir = tmp_path / "new"
    if before != "nothing":
        (workdir / "guide" / "metrics").mkdir(parents=True)
        (workdir / "guide" / "metrics" / "metrics.jsonl").write_text("{}")
        record = read_stage(tmp_path / "old" / "guide") | {"status": "running"}
        write_json(workdir / "guide" / "stage.json", record)
    were = _files(tmp_path)

    def refuse(folder):
        assert (folder / "checkpoints" / "4" / "state").is_dir()
        raise InputError("the data is of another model")

    for inputs in ({"prepare": workdir / "prepare"}, {}):  # before its work, and in it
        with (
            pytest.raises(InputError, match=r"prepare is missing|of another model"),
            withdrawn_folders(workdir),
            forked(tmp_path / "old" / "guide", _config(7), workdir, "guide"),
        ):
            run_stage("guide", _config(7).guide, workdir, refuse, inputs=inputs, seed=0)
        assert _files(tmp_path) == were


def test_a_fork_that_has_come_further_stays(tmp_path):
    _guide(_config(4), tmp_path / "old")

    def further(folder):
        (folder / "checkpoints" / "6").mkdir()
        (folder / "checkpoints" / "6" / "state").write_text("saved")
        raise InputError("the data ends here")

    with (
        pytest.raises(InputError, match="ends here"),
        forked(tmp_path / "old" / "guide", _config(7), tmp_path, "guide"),
    ):
        run_stage("guide", _config(7).guide, tmp_path, further, inputs={}, seed=0)
    assert steps_saved(tmp_path / "guide") == [4, 6]
    assert read_stage(tmp_path / "guide")["status"] == "running"


def test_nothing_is_copied_to_where_a_job_is_at_work(tmp_path):
    """It may have saved nothing yet, and would go on from a step of somebody else's."""
    _guide(_config(4), tmp_path / "old")
    folder = tmp_path / "new" / "guide"
    folder.mkdir(parents=True)
    told = pytest.raises(InputError, match="another job is at work")
    with held(folder), told, forked(tmp_path / "old/guide", _config(7), tmp_path / "new", "guide"):
        pytest.fail("it was forked")
    assert not steps_saved(folder) and read_stage(folder) is None


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_that_is_taken_away_while_it_is_copied_is_said(whole, tmp_path, monkeypatch):
    _guide(_config(4), tmp_path / "old")
    copy = shutil.copytree

    def copytree(source, draft):
        if whole:
            shutil.rmtree(source)
        monkeypatch.setattr(fork.shutil, "copytree", copy)
        return copy(source, draft, copy_function=gone)

    def gone(source, target):
        Path(source).unlink(missing_ok=True)  # as a job does that is half through a folder
        return shutil.copy2(source, target)

    monkeypatch.setattr(fork.shutil, "copytree", copytree)
    told = pytest.raises(InputError, match="the job that is at work there has taken it away")
    with told, forked(tmp_path / "old/guide", _config(7), tmp_path / "new", "guide"):
        pytest.fail("it was forked")
    assert not any(path.is_file() for path in (tmp_path / "new").rglob("*"))


def test_a_copy_that_was_killed_is_copied_anew(tmp_path):
    _guide(_config(4), tmp_path / "old")
    draft = tmp_path / "new" / "guide" / "checkpoints" / "4.orbax-checkpoint-tmp-fork"
    draft.mkdir(parents=True)
    (draft / "half").write_text("of it")
    with forked(tmp_path / "old" / "guide", _config(7), tmp_path / "new", "guide"):
        assert _guide(_config(7), tmp_path / "new") == {"w": 7.0}
    assert not draft.exists()
