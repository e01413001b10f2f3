"""What a stage left: trees of weights by their checksums, files by their bytes."""

import os
import shutil

import jax.numpy as jnp
import pytest

from flashjax.checkpoint import load_params, save_params
from flashjax.data.cache import write_shard
from flashjax.stages.contents import bytes_below, check_contents, contents, files_below, sweep
from flashjax.types import InputError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "merge"
    save_params(folder / "lo" / "params", {"w": jnp.arange(8.0)})
    write_shard(folder / "64x64.array_record", [b"record" * 20])
    for name in ("model.json", "checkpoints/4/x", "metrics-1/x", "hosts/x", ".lock", "stage.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_a_checkpoint_that_is_taken_away_meanwhile_is_not_there(folder, monkeypatch):
    """A manager of checkpoints does so in a thread while somebody looks through the workdir."""
    scan, gone = os.scandir, folder / "checkpoints" / "4"
    weighed = bytes_below(folder)

    def taken(path=".", *more):
        if str(path) == str(gone):
            shutil.rmtree(gone)
        return scan(path, *more)

    monkeypatch.setattr(os, "scandir", taken)
    found = files_below(folder)
    assert gone / "x" not in found and folder / "model.json" in found
    assert bytes_below(folder) == weighed - len("{}")


def test_results_are_noted_and_traces_are_not(folder):
    noted = contents(folder)
    assert list(noted) == ["64x64.array_record", "lo/params", "model.json"]
    check_contents(folder, noted)


def test_what_a_killed_job_was_writing_goes_and_nothing_else(folder):
    drafts = [".student.gguf.ab12_cd3/student.gguf", "manifest.json.77.tmp", "metrics/metrics.tmp"]
    theirs = ["notes.tmp", ".editor.settings/notes", ".student.gguf.ab12_cd4/notes"]
    for name in drafts + theirs:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("half")
    kept = {path for path in folder.rglob("*") if path.is_file()} - {folder / n for n in drafts}
    sweep(folder)
    assert {path for path in folder.rglob("*") if path.is_file()} == kept
    assert not (folder / ".student.gguf.ab12_cd3").exists()


def _swap(folder):
    shutil.rmtree(folder / "lo" / "params")
    save_params(folder / "lo" / "params", {"w": jnp.arange(8.0) + 1})


def _remove(folder):
    (folder / "64x64.array_record").unlink()


def _change(folder):
    (folder / "model.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "name"),
    [(_swap, "lo/params"), (_remove, "64x64.array_record"), (_change, "model.json")],
)
def test_another_tree_or_file_in_its_place_is_named(folder, damage, name):
    noted = contents(folder)
    damage(folder)
    with pytest.raises(InputError, match=f"merge: {name} is not what the stage wrote"):
        check_contents(folder, noted)


def test_a_tree_that_was_swapped_is_whole_in_itself(folder):
    """So its stage has to know it: the tree's own checksums are right."""
    _swap(folder)
    assert load_params(folder / "lo" / "params")["w"][0] == 1
