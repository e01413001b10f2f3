"""`merge` on folders of branches that were jobs of their own: only siblings are merged."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from flashjax import config as configs
from flashjax.checkpoint import load_params, save_params
from flashjax.stages import merge
from flashjax.types import InputError

# A layer of the transformer by its name, so that the layout of a student holds it.
KERNEL = "pooled_1"


def branch(workdir, name, value, *, student="a1b2", mesh=1, steps=24, **more):
    """The folder that the job of one branch leaves."""
    folder = workdir / f"split-{name}"
    save_params(folder / name / "params", {KERNEL: {"kernel": jnp.full((4, 2), value)}})
    section = {"branches": {"lo": [0, 500]}, "match": {"eta": 0.0}, "student": {"steps": 4}}
    section |= {"only": name, "mesh": {"data": mesh}, "job": {"steps": steps}} | more
    inputs = {"match": {"path": "match", "digest": student}}
    record = {"status": "done", "seed": 0, "section": section, "inputs": inputs, "results": {}}
    record |= {"seconds": 1.0, "versions": {}, "contents": {}}
    (folder / "stage.json").write_text(json.dumps(record))


def test_branches_of_one_student_are_merged_whatever_their_mesh_and_pace(tmp_path):
    branch(tmp_path, "lo", 1.0)
    branch(tmp_path, "hi", 2.0, mesh=4, steps=30)
    merge.run(configs.load("configs/nano.py"), tmp_path)
    merged = load_params(tmp_path / "merge" / "params")
    np.testing.assert_allclose(merged[KERNEL]["kernel"], 0.3 * 1.0 + 0.7 * 2.0, rtol=1e-6)


def test_branches_of_two_students_are_refused(tmp_path):
    branch(tmp_path, "lo", 1.0)
    branch(tmp_path, "hi", 2.0, student="c3d4")
    with pytest.raises(InputError, match=r"split-lo and split-hi are no .* differ in input match"):
        merge.run(configs.load("configs/nano.py"), tmp_path)


def test_ranges_in_other_units_are_other_ranges(tmp_path):
    """The same numbers hold other steps of the student; raw ones may be written out."""
    branch(tmp_path, "lo", 1.0, units="raw")
    branch(tmp_path, "hi", 2.0)
    merge.check_siblings({name: tmp_path / f"split-{name}" for name in ("lo", "hi")})
    branch(tmp_path, "hi", 2.0, units="shifted")
    with pytest.raises(InputError, match=r"split-lo and split-hi are no .* differ in units"):
        merge.run(configs.load("configs/nano.py"), tmp_path)
