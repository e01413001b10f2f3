"""A fork: the state of an old stage's checkpoint, another config, in a workdir of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from flashjax.data.pipeline import Ahead, batches
from flashjax.stages.fork import fork
from flashjax.stages.stage import read_stage, run_stage
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
    fork(old / "guide", longer, new, "guide")
    assert _guide(longer, new) == {"w": 34.0}
    assert _guide(longer, new) == {"w": 34.0}
    record = read_stage(new / "guide")
    assert record["forked"] == {"from": str(old / "guide"), "step": 4} and record["changes"] == []
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_what_cannot_be_forked_is_said(tmp_path):
    _guide(_config(4), tmp_path)
    with pytest.raises(InputError, match="step 4 is no earlier than the end"):
        fork(tmp_path / "guide", _config(4), tmp_path / "new", "guide")
    with pytest.raises(InputError, match="has begun"):
        fork(tmp_path / "guide", _config(5), tmp_path, "guide")
    with pytest.raises(InputError, match="has no checkpoints"):
        fork(tmp_path / "match", _config(5), tmp_path / "new", "guide")
    with pytest.raises(InputError, match="--fork goes with guide, match, split, not with export"):
        fork(tmp_path / "guide", _config(5), tmp_path / "new", "export")
    assert not (tmp_path / "new").exists()
