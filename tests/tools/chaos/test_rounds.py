"""Rounds: what was saved before a fault, and what the next start made of it."""

import itertools
import json
import os
import random
import shutil
import time
from collections import Counter

import pytest

from flashjax.stages.run import ROAD
from flashjax.stages.stage import write_json
from flashjax.tools.chaos import rounds
from flashjax.tools.chaos.command import _aims, _told
from flashjax.tools.chaos.faults import kill
from flashjax.tools.chaos.rounds import Told, Watch, newest, play, stretch, went_on
from flashjax.types import InputError


def test_stretches_cover_every_stage_and_every_seam():
    dice = random.Random(0)
    found = {stretch(dice) for _ in range(500)}
    names = list(ROAD)
    assert found == {(n, n) for n in names} | set(itertools.pairwise(names))


def test_stretches_are_of_the_stages_that_are_asked_for():
    dice = random.Random(0)
    aims = _aims("export,merge,prepare")
    assert aims == ["prepare", "merge", "export"]
    found = {stretch(dice, aims) for _ in range(100)}
    assert found == {(n, n) for n in aims} | {("merge", "export")}
    with pytest.raises(InputError, match="--stages mirge: the road has import, prepare"):
        _aims("mirge")


class _Ended:
    """A job that is polled so often and then has ended."""

    def __init__(self, polls):
        self.polls = polls

    def ended(self):
        self.polls -= 1
        return self.polls < 0


def test_a_short_stage_is_met_as_often_as_a_long_one(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(rounds, "_pass", lambda job, seconds: waited.append(seconds))
    monkeypatch.setattr(rounds, "at_work", lambda folder, started: True)
    dice = random.Random(0)
    for _ in range(400):
        rounds._wait(_Ended(1), tmp_path, dice, {"prepare": 2.0, "guide": 1000.0}, 0.0)
    assert 120 < sum(s < 2.5 for s in waited) - 400 * rounds.STARTING / 3 < 220


def test_where_all_is_done_a_start_is_left_to_its_end(tmp_path, finished, monkeypatch):
    waited = []
    monkeypatch.setattr(rounds, "_pass", lambda job, seconds: waited.append(seconds))
    dice = random.Random(0)
    dice.random = lambda: 1.0
    rounds._wait(_Ended(9), finished(tmp_path, 1.0), dice, {"guide": 5.0}, 0.0)
    assert waited == [float("inf")]


def test_a_stage_that_a_killed_start_left_is_not_at_work_in_the_next(tmp_path):
    started = time.time()
    folder = _under_way(tmp_path, 2)
    os.utime(folder / "stage.json", (started - 5, started - 5))
    assert not rounds.at_work(folder, started)
    assert rounds._under_way(tmp_path, started) == "start"
    os.utime(folder / "stage.json", (started + 5, started + 5))
    assert rounds.at_work(folder, started)
    assert rounds._under_way(tmp_path, started) == "guide"


def test_a_start_that_goes_on_from_an_older_step_has_lost_some():
    assert not went_on("guide goes on from step 4", "guide", 4)
    assert not went_on("killed before it said a word", "guide", 4)
    assert went_on("guide goes on from step 2", "guide", 4).endswith("went on from 2")
    assert went_on("guide: first step 3.0 s after", "guide", 4).endswith("began anew")


def _under_way(workdir, *steps):
    folder = workdir / "guide"
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    record = {"status": "running", "section": {}, "seed": 0, "inputs": {}, "seconds": 1.0}
    (folder / "stage.json").write_text(json.dumps({**record, "versions": {}, "contents": {}}))
    return folder


def test_a_lost_save_is_told_once(tmp_path):
    workdir = tmp_path / "round-0"
    _under_way(workdir, 2, 4)
    said = tmp_path / "round-0.log"
    said.write_text("guide: first step 2.0 s after the command\n")
    watch = Watch(workdir)
    assert watch.losses() == []  # nothing was saved before the first start
    assert newest(workdir) == {"guide": 4}
    with said.open("a") as log:
        log.write("guide goes on from step 2\n")
    assert watch.losses() == ["saved step 4 of guide, but went on from 2"]


def _round(tmp_path, made, job_of, faults=(), **more):
    """A round of `guide` in which a job, killed so often, leaves what `made` is, and ends."""
    ends = "import sys; print(flush=True); sys.exit(0)"
    starts = iter([*["import time; print(flush=True)"] * len(faults), ends])

    def start(workdir, first, last):
        (workdir.parent / f"{workdir.name}.log").touch()
        code = next(starts)
        if code == ends:
            for path in made.iterdir():
                shutil.copytree(path, workdir / path.name, dirs_exist_ok=True)
        return job_of(workdir, code)

    told = Told()
    dice = random.Random(0)
    dice.randrange = lambda *_: 2  # guide
    dice.randint = lambda *_: 0
    dice.random = lambda: 0.0  # at the start
    dice.uniform = lambda *_: 0.3
    play(tmp_path, tmp_path / "unbroken", start, dict(faults), told, dice, **more)
    return told


@pytest.fixture
def unbroken(tmp_path, finished):
    """A run that is finished up to `guide`."""
    run = finished(tmp_path / "unbroken", 1.0)
    for name in ("import", "prepare", "data"):
        (run / name).mkdir()
    (run / "config.json").write_text("{}")
    return run


def test_a_round_has_no_more_faults_than_are_left(tmp_path, finished, job_of, unbroken):
    same = finished(tmp_path / "same", 1.0)
    told = _round(tmp_path, same, job_of, [("kill", (kill, 1))], most=1)
    assert (dict(told.faults), dict(told.stages), told.wrong) == ({"kill": 1}, {"start": 1}, [])


def test_a_round_that_ends_otherwise_is_told_and_kept(tmp_path, finished, job_of, unbroken):
    same, other = finished(tmp_path / "same", 1.0), finished(tmp_path / "other", 2.0)
    good = _round(tmp_path, same, job_of)
    assert (good.rounds, good.wrong, good.equal) == (1, [], 3)
    assert not (tmp_path / "round-0").exists()
    bad = _round(tmp_path, other, job_of)
    assert bad.wrong == ["round 0: guide/metrics/metrics.jsonl is not that of the unbroken run"]
    assert (tmp_path / "round-0" / "guide").exists()


def test_what_is_told_is_read_again(tmp_path):
    told = Told(rounds=1)
    told.faults["kill"] += 2
    write_json(tmp_path / "chaos.json", vars(told))
    again = _told(tmp_path / "chaos.json")
    again.faults["flip"] += 1
    assert again == Told(rounds=1, faults=Counter(kill=2, flip=1))
    assert _told(tmp_path / "none") == Told()
