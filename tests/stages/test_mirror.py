"""A run in a workdir at an address goes on elsewhere, bit by bit, wherever it was killed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mirror_job

from flashjax import cli
from flashjax.data.remote import lock, store
from flashjax.data.remote.fetch import fetched
from flashjax.data.remote.store import Store
from flashjax.stages import mirror
from flashjax.stages.mirror import opened
from flashjax.stages.stage import read_stage, run_stage
from flashjax.types import InputError


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Moves to another machine, which has no copy of anything yet."""

    def move(name):
        monkeypatch.setenv(store.CACHE, str(tmp_path / name))
        monkeypatch.setenv("PYTHONPATH", str(Path(mirror.__file__).parents[2]))

    for name, seconds in {"AGREE": 0.01, "STALE": 0.3, "LOOK": 0.05}.items():
        monkeypatch.setattr(lock, name, seconds)
    move("one")
    return move


@pytest.fixture
def address(tmp_path):
    return f"file://{tmp_path}/bucket/run"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return mirror_job.work(str(tmp_path_factory.mktemp("whole")))["w"]


def killed(address, how):
    words = [sys.executable, mirror_job.__file__, address, how]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize("how", ["step", "marker"])
def test_a_run_that_was_killed_goes_on_on_another_machine(address, unbroken, how, machine, caplog):
    killed(address, how)
    first = mirror_job.saved(address)
    assert first and max(first) < mirror_job.STEPS
    machine("another")
    with caplog.at_level("INFO"):
        assert mirror_job.work(address)["w"] == unbroken
    (line,) = [line for line in caplog.messages if "goes on from step" in line]
    assert line == f"toy goes on from step {max(first)}"
    assert mirror_job.saved(address) == {mirror_job.STEPS}
    here = fetched(address)
    assert read_stage(here / "toy")["results"] == {"w": unbroken}
    lines = (here / "toy" / "metrics" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == mirror_job.STEPS  # none twice


def test_a_machine_whose_copy_is_ahead_goes_on_from_it_and_one_that_is_behind_does_not(
    address, unbroken, machine, monkeypatch, caplog
):
    send = Store.send

    def broken(self, file, name):
        if "checkpoints" in str(file):
            raise OSError("the network is down")
        send(self, file, name)

    monkeypatch.setattr(mirror_job, "STEPS", 8)
    with monkeypatch.context() as patch, pytest.raises(InputError) as told:
        patch.setattr(Store, "send", broken)
        mirror_job.work(address)
    assert "not all is put there (the network is down): it is kept in" in str(told.value)
    assert not mirror_job.saved(address)
    with caplog.at_level("INFO"):
        assert mirror_job.work(address)["w"] == unbroken  # it was done, here
    assert "toy skipped: already done" in caplog.messages
    assert mirror_job.saved(address) == {8}
    machine("another")
    with opened(address) as workdir:
        run_stage("more", {}, workdir, lambda folder: {"of": "another"}, inputs={}, seed=0)
    machine("one")
    with opened(address) as workdir:
        assert read_stage(workdir / "more")["results"] == {"of": "another"}


def checkpoint(workdir, step, *names):
    for name in names or ("a", "b"):
        path = workdir / "toy" / "checkpoints" / str(step) / "state" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} of {step}")


def test_a_copy_that_another_machine_has_overtaken_keeps_nothing_of_its_own(address, machine):
    with opened(address) as workdir:
        checkpoint(workdir, 2)
    checkpoint(workdir, 4)  # before it was killed
    machine("another")
    with opened(address) as other:
        checkpoint(other, 6)
    machine("one")
    with opened(address) as again:
        assert again == workdir
        assert sorted(path.name for path in (again / "toy/checkpoints").iterdir()) == ["2", "6"]


@pytest.mark.parametrize("left", [None, "weeks"])
def test_what_a_finished_stage_has_lost_here_comes_back_and_is_not_lost_there(address, left):
    def body(folder):
        (folder / "weights").write_text("weeks of work")
        return {}

    with opened(address) as workdir:
        run_stage("toy", {}, workdir, body, inputs={}, seed=0)
    weights = workdir / "toy" / "weights"
    weights.unlink()
    if left is not None:
        weights.write_text(left)
    with opened(address) as again:
        run_stage("next", {}, again, body, inputs={"toy": again / "toy"}, seed=0)
        assert weights.read_text() == "weeks of work"
    assert {"toy/weights", "next/weights"} <= set(store_names(address))


def test_what_is_ahead_here_goes_there_also_where_something_lost_comes_back(address):
    """The files of an unfinished stage, which a killed job had not put there yet."""

    def body(folder):
        (folder / "weights").write_text("weeks of work")
        return {}

    with opened(address) as workdir:
        run_stage("toy", {}, workdir, body, inputs={}, seed=0)
        checkpoint(workdir, 2)
        (workdir / "notes").mkdir()
        (workdir / "notes" / "log").write_text("one")
    (workdir / "toy" / "weights").unlink()
    (workdir / "notes" / "log").write_text("one and two")  # before it was killed
    with opened(address):
        pass
    shelf = Store.of(address)
    assert shelf.stamps()["notes/log"][0] == len("one and two")
    assert (workdir / "toy" / "weights").read_text() == "weeks of work"


def steps_here(workdir):
    return sorted(int(path.name) for path in (workdir / "toy/checkpoints").iterdir())


@pytest.mark.parametrize("status", ["running", "done"])
@pytest.mark.parametrize("how", ["cut", "one", "all"])
def test_a_checkpoint_that_is_damaged_here_comes_back_and_is_not_lost_there(how, status, address):
    """Nobody writes in one: it is the disk, and weeks of work."""
    with opened(address) as workdir:
        for step in (2, 4):
            checkpoint(workdir, step)
        (workdir / "toy" / "stage.json").write_text(f'{{"status": "{status}"}}')
    saved = workdir / "toy" / "checkpoints"
    if how == "cut":
        (saved / "4" / "state" / "a").write_text("")
    else:
        shutil.rmtree(saved / "4" if how == "one" else saved)
    with opened(address) as again:
        assert (again / "toy/checkpoints/4/state/a").read_text() == "a of 4"
        assert steps_here(again) == [2, 4]
    assert Store.of(address).stamps()["toy/checkpoints/4/state/a"][0] == len("a of 4")


@pytest.mark.parametrize("begun_anew", [False, True])
def test_what_a_job_has_taken_away_stays_away(begun_anew, address):
    """Older checkpoints than it has, and a whole stage that is to be run anew."""
    with opened(address) as workdir:
        for step in (2, 4):
            checkpoint(workdir, step)
        (workdir / "toy" / "stage.json").write_text('{"status": "running"}')
    shutil.rmtree(workdir / "toy/checkpoints/2")
    checkpoint(workdir, 6)  # before it was killed
    with opened(address) as again:
        assert steps_here(again) == [4, 6]
    assert mirror_job.saved(address) == {4, 6}
    shutil.rmtree(workdir / "toy")
    if begun_anew:  # and killed before its first save
        (workdir / "toy").mkdir()
        (workdir / "toy" / "stage.json").write_text('{"status": "running", "anew": 1}')
    with opened(address) as again:
        assert not (again / "toy" / "checkpoints").exists()
    assert not mirror_job.saved(address)


def test_what_a_stage_within_a_folder_has_lost_comes_back_too(address):
    """As the pictures that a teacher drew for the data."""

    def body(folder):
        (folder / "0-train").mkdir()
        (folder / "0-train" / "00000.tar").write_text("drawn for days")
        return {}

    with opened(address) as workdir:
        run_stage("draw", {}, workdir / "data", body, inputs={}, seed=0)
    drawn = workdir / "data/draw/0-train/00000.tar"
    drawn.unlink()
    with opened(address):
        assert drawn.read_text() == "drawn for days"
    assert "data/draw/0-train/00000.tar" in store_names(address)


def settled():
    if thread := mirror._open[0]._thread:
        thread.join()


def test_a_checkpoint_that_is_being_taken_away_is_not_put_there_by_half(address):
    with opened(address) as workdir:
        for step in (2, 4):
            checkpoint(workdir, step)
        mirror.note()
        settled()
        (workdir / "toy/checkpoints/2/state/a").unlink()  # being taken away
        checkpoint(workdir, 5, "b")  # and one that nobody knows
        checkpoint(workdir, 6)
        mirror._open[0].note(live=True)
        settled()
        assert mirror_job.saved(address) == {4, 6}


def test_one_job_at_a_time_has_an_address(address, monkeypatch):
    with opened(address), monkeypatch.context() as patch:
        patch.setattr(lock, "_is_dead_here", lambda content: False)
        patch.setattr(lock, "STALE", 60.0)
        with pytest.raises(InputError, match="another job is at work there"), opened(address):
            pass


def test_the_workdir_of_others_is_not_begun_in(address):
    Store.of(address).put("import/mine.txt", b"mine")
    with pytest.raises(InputError, match=r"holds import/mine\.txt, which flashjax did not put"):
        with opened(address):
            raise AssertionError("it was begun")
    assert Store.of(address).read("import/mine.txt") == b"mine"


def test_what_is_written_in_place_is_put_as_it_was(address):
    """A file that grows while it is uploaded would be of no moment at all."""
    with opened(address) as workdir:
        for name, size in {"small": 10, "large": mirror.LINKED}.items():
            (workdir / name).write_bytes(bytes(size))
        (workdir / "metrics-large").write_bytes(bytes(mirror.LINKED))
        shot = workdir.parent / "new-x"
        mirror._open[0]._take(shot, live=False)
        links = {path.name for path in shot.iterdir() if path.stat().st_nlink > 1}
        assert links == {"large"}
        (workdir / "compiled").mkdir()
        (workdir / "compiled" / "x").touch()
    assert {"small", "large", "metrics-large"} == set(store_names(address))


def store_names(address):
    return [name for name in Store.of(address).stamps() if not name.startswith(".flashjax")]


def test_a_folder_is_a_folder_and_several_machines_are_refused(address, tmp_path, monkeypatch):
    with opened(str(tmp_path / "run")) as workdir:
        assert workdir == tmp_path / "run"
    monkeypatch.setattr(mirror, "any_process", lambda value: np.bool_(True))
    told = r"a job on several machines needs a folder that all of them see: mount the bucket \(gcs"
    with pytest.raises(InputError, match=told), opened(address):
        pass


def test_a_mark_of_an_earlier_start_is_no_folder_in_common(tmp_path, monkeypatch):
    """A machine that had run alone before would have taken its own folder for the first one's."""
    (tmp_path / "common").write_text("of a start on this machine alone")
    monkeypatch.setattr(mirror, "is_first", lambda: False)
    monkeypatch.setattr(mirror, "meet", lambda name: None)
    with pytest.raises(InputError, match="needs a folder that all of them see"):
        mirror._check_common(tmp_path, "gs://bucket/run")


def test_a_dry_run_puts_nothing_there(address, capsys):
    flags = ["--config", "configs/nano.py", "--workdir", address, "--dry_run"]
    assert cli.main(["import", *flags, "--config.simulate_devices=1"]) == 0
    assert not Store.of(address).stamps()
