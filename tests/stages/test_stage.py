"""The stage runner: once, resumed, refused."""

import errno
import fcntl
import json
import os
import shutil

import pytest

from flashjax.stages import stage
from flashjax.stages.contents import CHECKPOINTS
from flashjax.stages.stage import read_stage, run_stage, write_config
from flashjax.train.loop import Interrupted
from flashjax.types import InputError

SECTION = {
    "steps": 4,
    "optimiser": {"rate": 0.1},
    "sigmas": (1.0, 0.5),
    "loss": {"weight": 0.1},
    "mesh": {"fsdp": 1},
    "job": {"checkpoint_steps": 2},
}


class Body:
    """Counts its runs; the first `interruptions` of them are interrupted."""

    def __init__(self, interruptions=0):
        self.runs = 0
        self.interruptions = interruptions

    def __call__(self, folder):
        self.runs += 1
        (folder / f"checkpoint{self.runs}").touch()
        if self.runs <= self.interruptions:
            raise Interrupted(self.runs)
        return {"loss": 0.5, "runs": self.runs}


def _run(workdir, body, section=SECTION, name="match", inputs=None, seed=0):
    return run_stage(name, section, workdir, body, inputs=inputs or {}, seed=seed)


def test_a_finished_stage_is_not_run_again(tmp_path):
    body = Body()
    assert _run(tmp_path, body) == _run(tmp_path, body) == {"loss": 0.5, "runs": 1}
    record = json.loads((tmp_path / "match" / "stage.json").read_text())
    assert record["status"] == "done" and record["seconds"] >= 0 and record["seed"] == 0
    assert record["versions"]["jax"] and record["section"]["sigmas"] == [1.0, 0.5]
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


def test_no_stage_begins_where_its_checkpoints_would_not_be_found_again(tmp_path):
    body, odd = Body(), tmp_path / "runs [1]"
    with pytest.raises(InputError, match=r"below a name with \[ in it: rename that"):
        _run(odd, body)
    assert not body.runs and not odd.exists()
    odd.symlink_to(tmp_path / "plain")
    _run(tmp_path / "plain", body)
    assert _run(odd, body)["runs"] == 1  # one that is done is there to be read


def test_an_interrupted_stage_goes_on_in_its_folder(tmp_path):
    body = Body(interruptions=1)
    with pytest.raises(Interrupted):
        _run(tmp_path, body)
    assert read_stage(tmp_path / "match")["status"] == "running"
    assert _run(tmp_path, body)["runs"] == 2
    assert (tmp_path / "match" / "checkpoint1").exists()


@pytest.mark.parametrize("interruptions", [0, 1])
@pytest.mark.parametrize(
    ("change", "seed", "message"),
    [
        ({"loss": {"weight": 0.2}}, 0, r"differs in loss\.weight: 0\.1 -> 0\.2"),
        ({"steps": 5}, 0, "differs in steps: 4 -> 5"),
        ({"new": 1}, 0, "differs in new: None -> 1"),
        ({}, 1, "differs in seed: 0 -> 1"),
    ],
)
def test_another_config_is_refused(tmp_path, change, seed, message, interruptions):
    body = Body(interruptions)
    if interruptions:
        with pytest.raises(Interrupted):
            _run(tmp_path, body)
    else:
        _run(tmp_path, body)
    with pytest.raises(InputError, match=message) as caught:
        _run(tmp_path, body, section=SECTION | change, seed=seed)
    assert body.runs == 1 and f"delete {tmp_path / 'match'}" in str(caught.value)


WAY = {"mesh": {"fsdp": 2}, "job": {"checkpoint_steps": 1}}
RATE = {"optimiser": {"rate": 0.05}}


def test_how_a_stage_is_carried_out_may_change_and_is_noted_with_its_step(tmp_path, caplog):
    def at_step(number):
        def body(folder):
            (folder / "checkpoints" / str(number)).mkdir(parents=True)
            (folder / "checkpoints" / str(number) / "state").touch()
            raise Interrupted(number)

        return body

    caplog.set_level("INFO")
    for number, section in [(10, SECTION), (20, SECTION | WAY), (30, SECTION | WAY | RATE)]:
        with pytest.raises(Interrupted):
            _run(tmp_path, at_step(number), section=section)
    assert "otherwise from step 20: optimiser.rate: 0.1 -> 0.05" in caplog.text
    assert _run(tmp_path, Body(), section=SECTION | RATE)["runs"] == 1
    record = read_stage(tmp_path / "match")
    assert record["changes"] == [
        {"step": 10, "changes": {"job.checkpoint_steps": [2, 1], "mesh.fsdp": [1, 2]}},
        {"step": 20, "changes": {"optimiser.rate": [0.1, 0.05]}},
        {"step": 30, "changes": {"job.checkpoint_steps": [1, 2], "mesh.fsdp": [2, 1]}},
    ]
    assert record["section"]["optimiser"] == {"rate": 0.05}


def test_a_finished_stage_stands_on_any_mesh_and_keeps_its_rates(tmp_path, caplog):
    caplog.set_level("INFO")
    _run(tmp_path, Body())
    assert _run(tmp_path, Body(), section=SECTION | WAY)["runs"] == 1
    assert "already done (job.checkpoint_steps: 2 -> 1, mesh.fsdp: 1 -> 2)" in caplog.text
    with pytest.raises(InputError, match=r"differs in optimiser\.rate: 0\.1 -> 0\.05\)"):
        _run(tmp_path, Body(), section=SECTION | RATE)


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_a_stage_that_came_to_nothing_gives_way_to_a_corrected_config(tmp_path, error):
    """Its logs are no result: what was refused, or stopped before a checkpoint, claims nothing."""

    def refuse(folder):
        for trace in ("metrics/metrics.jsonl", "hosts/heartbeat-0.json"):
            (folder / trace).parent.mkdir(parents=True)
            (folder / trace).write_text("{}")
        (folder / "checkpoints").mkdir()
        half = folder / "params.orbax-checkpoint-tmp" / "ocdbt"
        half.mkdir(parents=True)
        (half / "data").touch()
        raise error("steps")

    with pytest.raises(error):
        _run(tmp_path, refuse, section=SECTION | {"steps": 0})
    assert read_stage(tmp_path / "match")["status"] == "running"
    assert _run(tmp_path, Body())["runs"] == 1
    record = read_stage(tmp_path / "match")
    assert record["status"] == "done" and record["section"]["steps"] == 4


def test_changed_inputs_are_refused(tmp_path):
    weights = tmp_path / "nano"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"one")
    inputs = {"teacher": weights}
    _run(tmp_path, Body(), name="import", inputs=inputs)
    parent = {"import": tmp_path / "import"}
    _run(tmp_path, Body(), inputs=parent)
    assert _run(tmp_path, Body(), inputs=parent)["runs"] == 1
    (weights / "model.safetensors").write_bytes(b"two")
    with pytest.raises(InputError, match="teacher has changed"):
        _run(tmp_path, Body(), name="import", inputs=inputs)
    stage = tmp_path / "import" / "stage.json"
    stage.write_text(stage.read_text().replace('"loss": 0.5', '"loss": 0.4'))
    with pytest.raises(InputError, match="import has changed"):
        _run(tmp_path, Body(), inputs=parent)


def test_what_lies_behind_a_link_of_an_input_is_a_part_of_it(tmp_path):
    """A pipeline's networks may be linked from another disk; a link to itself ends nothing."""
    weights, real = tmp_path / "nano", tmp_path / "disk"
    for folder in (weights, real):
        folder.mkdir()
    (real / "model.safetensors").write_bytes(b"one")
    (weights / "transformer").symlink_to(real, target_is_directory=True)
    (weights / "again").symlink_to(weights, target_is_directory=True)
    inputs = {"teacher": weights}
    _run(tmp_path, Body(), name="import", inputs=inputs)
    assert _run(tmp_path, Body(), name="import", inputs=inputs)["runs"] == 1
    (real / "model.safetensors").write_bytes(b"two")
    with pytest.raises(InputError, match="teacher has changed"):
        _run(tmp_path, Body(), name="import", inputs=inputs)


def test_a_stage_whose_checkpoints_are_linked_has_come_to_something(tmp_path):
    body = Body(interruptions=1)
    with pytest.raises(Interrupted):
        _run(tmp_path, body)
    (tmp_path / "match" / "checkpoint1").unlink()
    (tmp_path / "disk" / "400").mkdir(parents=True)
    (tmp_path / "match" / CHECKPOINTS).symlink_to(tmp_path / "disk", target_is_directory=True)
    with pytest.raises(InputError, match=r"differs in loss\.weight"):
        _run(tmp_path, body, SECTION | {"loss": {"weight": 0.2}})


@pytest.mark.parametrize("weights", ["", "=/weights"])
@pytest.mark.parametrize("nested", [False, True])
def test_code_that_changed_under_its_name_is_another_stage(nested, weights, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / f"mine_{nested}_{len(weights)}"
    package.mkdir()
    (package / "__init__.py").touch()
    code = package / "arms.py"
    code.write_text("def gradient(): return 1\n")
    named = f"{package.name}.arms:gradient"
    told = named + weights
    section = {"judges": ("detail", told)} if nested else {"match": {"gradient": told}}
    _run(tmp_path / "w", Body(), section)
    _run(tmp_path / "w", Body(), section)
    code.write_text("def gradient(): return 2\n")
    with pytest.raises(InputError, match=f"{told} has changed"):
        _run(tmp_path / "w", Body(), section)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data_first", "data_first:make,pictures"),
        ("data_last", "a.{b,c},data_last:make"),
        ("data_told", ("pictures", "data_told:make")),
    ],
)
def test_code_in_a_list_of_sources_is_an_input(name, source, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text("def make(): return 1\n")
    _run(tmp_path / "w", Body(), {"source": source})
    (tmp_path / f"{name}.py").write_text("def make(): return 2\n")
    with pytest.raises(InputError, match=f"source={name}:make has changed"):
        _run(tmp_path / "w", Body(), {"source": source})


def test_code_that_the_named_code_imports_is_an_input_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_arms.py").write_text("from my_maths import gradient\n")
    (tmp_path / "my_maths.py").write_text("def gradient(): return 1\n")
    section = {"match": {"gradient": "my_arms:gradient"}}
    _run(tmp_path / "w", Body(), section)
    _run(tmp_path / "w", Body(), section)
    (tmp_path / "my_maths.py").write_text("def gradient(): return 2\n")
    with pytest.raises(InputError, match="my_arms:gradient, my_maths has changed"):
        _run(tmp_path / "w", Body(), section)


def test_missing_or_unfinished_inputs_are_named(tmp_path):
    with pytest.raises(InputError, match="input guide is missing"):
        _run(tmp_path, Body(), inputs={"guide": tmp_path / "guide"})
    with pytest.raises(Interrupted):
        _run(tmp_path, Body(interruptions=1), name="guide")
    with pytest.raises(InputError, match="input guide is unfinished"):
        _run(tmp_path, Body(), inputs={"guide": tmp_path / "guide"})


def test_config_is_written_whole(tmp_path):
    write_config(tmp_path / "run", SECTION)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["sigmas"] == [1.0, 0.5]


def test_only_the_first_process_runs_a_stage_that_one_does_alone(tmp_path, monkeypatch):
    first = Body()
    results = run_stage("export", SECTION, tmp_path, first, inputs={}, seed=0, alone=True)
    assert first.runs == 1 and results["loss"] == 0.5
    other = Body()
    (tmp_path / "quantize").mkdir()
    monkeypatch.setattr("flashjax.stages.stage.is_first", lambda: False)
    with pytest.raises(InputError, match="not a finished stage"):  # nobody else has run it here
        run_stage("quantize", SECTION, tmp_path, other, inputs={}, seed=0, alone=True)
    assert other.runs == 0


def _hands_on(folder):
    """A stage's body that leaves parameters, an exported file and a checkpoint."""
    for name in ("params/d/0", "lo/params/d/0", "x.gguf", "checkpoints/1/params/0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(1000))
    return {}


@pytest.mark.parametrize("name", ["params/d/0", "lo/params/d/0", "x.gguf"])
@pytest.mark.parametrize("change", ["flipped", "lost"])
def test_weights_that_are_not_what_their_stage_wrote_are_refused(name, change, tmp_path):
    _run(tmp_path, _hands_on, name="merge")
    path = tmp_path / "merge" / name
    if change == "lost":
        path.unlink()
    else:
        path.write_bytes(bytes(499) + b"\x01" + bytes(500))
    body = Body()
    with pytest.raises(InputError, match=r"is not what the stage wrote: bring that back"):
        _run(tmp_path, body, name="export", inputs={"merge": tmp_path / "merge"})
    assert body.runs == 0 and not (tmp_path / "export").exists()


def test_what_a_stage_keeps_for_itself_may_go(tmp_path):
    _run(tmp_path, _hands_on, name="merge")
    shutil.rmtree(tmp_path / "merge" / "checkpoints")
    assert _run(tmp_path, Body(), name="export", inputs={"merge": tmp_path / "merge"})


def test_two_jobs_are_not_at_work_in_one_folder(tmp_path):
    def second(folder):
        with pytest.raises(InputError, match=r"another job is at work in .*match: wait for"):
            _run(tmp_path, Body())
        return {"refused": True}

    assert _run(tmp_path, second) == {"refused": True}
    assert _run(tmp_path, Body()) == {"refused": True}  # it is done, and nobody is at work


def test_who_looked_before_another_job_was_done_does_not_do_it_again(tmp_path, monkeypatch):
    """Inputs of gigabytes are read between the look and the lock."""
    make_room = stage._make_room

    def meanwhile(*arguments):
        monkeypatch.setattr(stage, "_make_room", make_room)
        assert _run(tmp_path, Body())["runs"] == 1
        make_room(*arguments)

    monkeypatch.setattr(stage, "_make_room", meanwhile)
    with pytest.raises(InputError, match=r"another job has been at work in .*: run the same"):
        _run(tmp_path, Body(), SECTION | {"steps": 9})
    assert read_stage(tmp_path / "match")["section"]["steps"] == SECTION["steps"]


def test_a_disk_without_locks_is_said_and_works(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert _run(tmp_path, Body())["runs"] == 1
    assert "cannot be locked" in caplog.text


def test_a_folder_of_somebody_else_is_no_stage(tmp_path):
    """Weights of a user under a stage's name are neither written over nor taken for its own."""
    theirs = tmp_path / "match" / "params" / "weights"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("a user's")
    body = Body()
    with pytest.raises(InputError, match=r"match holds files, but no stage\.json: .*--workdir"):
        _run(tmp_path, body)
    assert body.runs == 0 and theirs.read_text() == "a user's"
    assert [path.name for path in tmp_path.rglob("*")] == ["match", "params", "weights"]


def test_a_config_of_somebody_else_stays(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')
    with pytest.raises(InputError, match=r"config\.json is no run's config: use another --workdir"):
        write_config(tmp_path, {"seed": 1})
    assert "SD3" in (tmp_path / "config.json").read_text()
    for seed in (1, 2):
        write_config(tmp_path / "new", {"seed": seed})
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == {"seed": 2}


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "3", "null", '{"status": "done"}', "[" * 10**5]
)
@pytest.mark.parametrize("whose", ["its own", "an input's"])
def test_a_record_that_is_none_is_one_line(tmp_path, content, whose):
    folder = tmp_path / ("match" if whose == "its own" else "guide")
    folder.mkdir()
    (folder / "stage.json").write_text(content)
    inputs = {} if whose == "its own" else {"guide": folder}
    with pytest.raises(InputError, match=r"stage\.json is no .*delete .* to run it anew") as caught:
        _run(tmp_path, Body(), inputs=inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"status": 1},
        {"inputs": {"guide": {}}},
        {"inputs": []},
        {"section": None},
        {"seed": "0"},
        {"seconds": "long"},
        {"results": None},
        {"contents": [1]},
        {"versions": None},
        {"changes": {}},
    ],
)
def test_a_record_of_other_kinds_is_one_line(tmp_path, change):
    _run(tmp_path, Body())
    path = tmp_path / "match" / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"stage\.json is no stage's \(.*\): delete"):
        _run(tmp_path, Body())


def test_an_input_that_is_as_it_was_is_not_read_again(tmp_path, monkeypatch):
    """45 GB at each start of each process; what git and downloads keep beside it is not of it."""
    source = tmp_path / "source"
    (source / ".git").mkdir(parents=True)
    (source / "weights").write_bytes(b"w" * 10)
    read = []
    digest = stage._digest
    monkeypatch.setattr(stage, "_digest", lambda path: read.append(path) or digest(path))

    def start():
        read.clear()
        section = {"a": 1}
        run_stage("s", section, tmp_path, lambda folder: {}, inputs={"source": source}, seed=0)
        return source / "weights" in read

    assert start() and not start()
    (source / ".git" / "index").write_bytes(b"new")
    assert not start()
    os.utime(source / "weights", ns=(1, 1))
    assert start()  # another time, and the same bytes
    (source / "weights").write_bytes(b"v" * 10)
    with pytest.raises(InputError, match="source has changed"):
        start()
