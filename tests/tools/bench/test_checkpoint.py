"""`bench checkpoint`: a state through the jobs' checkpoints, beside a plain file of its bytes."""

import json
import shutil

import jax
import numpy as np
import pytest

from flashjax.cli import main
from flashjax.tools.bench import checkpoint
from flashjax.tools.bench.matched import case_of

SIZE = "64/2/4+3/1"


def test_saving_and_restoring_are_timed_and_nothing_stays(tmp_path, capsys) -> None:
    out, workdir = tmp_path / "checkpoint.json", tmp_path / "disk"
    flags = ["--size", SIZE, "--rounds", "1", "--workdir", str(workdir), "--json", str(out)]
    assert main(["bench", "checkpoint", *flags]) == 0
    told = json.loads(out.read_text())
    parts = {row["part"]: row for row in told["rows"]}
    assert set(parts) == {checkpoint.CHECKSUMS, *checkpoint.BESIDE, *checkpoint.BESIDE.values()}
    assert all(row["seconds"] > 0 and row["bytes_per_second"] > 0 for row in told["rows"])
    for part, beside in checkpoint.BESIDE.items():
        ratio = parts[part]["seconds"] / parts[beside]["seconds"]
        assert parts[part]["times_the_plain_seconds"] == pytest.approx(ratio)
    # Numbers that look random are not packed away.
    assert told["disk_bytes"] > 0.8 * told["state_bytes"]
    assert not list(workdir.iterdir())
    assert "plain write" in capsys.readouterr().out


def test_a_state_is_that_of_matching_and_no_number_is_like_another() -> None:
    state = checkpoint.random_state(case_of(SIZE))
    shapes = checkpoint.state_of(case_of(SIZE))
    same = jax.tree.map(lambda x, y: x.shape == y.shape and x.dtype == y.dtype, state, shapes)
    assert all(jax.tree.leaves(same))
    moments = jax.tree.leaves(state.fake.opt)
    assert len(np.unique(max(moments, key=lambda leaf: leaf.size))) > 1000


@pytest.mark.parametrize("short", ["disk", "memory"])
def test_what_has_no_room_is_refused_before_it_is_made(short, monkeypatch, tmp_path, capsys):
    if short == "disk":
        full = shutil.disk_usage(tmp_path)._replace(free=10**6)
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: full)
    else:
        monkeypatch.setattr(checkpoint, "free_bytes", lambda: 10**6)
    assert main(["bench", "checkpoint", "--size", SIZE, "--workdir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{short} has 977 KiB: take a smaller one, or another --workdir" in line


def test_no_rounds_end_in_one_line(capsys) -> None:
    assert main(["bench", "checkpoint", "--rounds", "0"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--rounds 0: give 1 or more" in line
