"""Everything that is wrong with a config is said at once, and nothing is written."""

import json
import shutil
from pathlib import Path

import jax
import pytest
from PIL import Image

from flashjax import config as configs
from flashjax import trees
from flashjax.cli import main
from flashjax.convert import folder as folders
from flashjax.convert.folder import read_pipeline
from flashjax.convert.sai import write_sai
from flashjax.data.cache import Cache
from flashjax.stages.model import TOKENIZERS, keep_model
from flashjax.stages.registry import open_samples
from flashjax.stages.training import JobConfig
from flashjax.tools import preflight, sections

NANO = Path(__file__).parents[2] / "configs" / "nano.py"
INTERVAL = ("level=interval", "adversarial_weight=0", "eta=0.0")


def found(tmp_path: Path, *overrides: str) -> list[str]:
    return preflight.problems(sections.load(str(NANO), overrides), tmp_path / "run")


def test_a_config_that_runs_has_no_problem_and_is_told_what_it_takes(tmp_path):
    assert found(tmp_path) == []
    told = preflight.estimate(configs.load(NANO))
    assert "iB on a device" in told and "checkpoints" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "path", ["data.draw.steps", "data.dtype", "data.size", "evaluate.prompts", "split.mesh.branch"]
)
def test_a_key_that_a_recipe_may_leave_out_is_missed_by_nothing(tmp_path, path):
    config = configs.load(NANO, ["data.text=embeddings"]).unlock()
    *parents, last = path.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    del section[last]
    said = preflight.problems(config, tmp_path / "run")
    assert all("split.mesh.branch=1" in line for line in said)
    assert len(said) == (path == "split.mesh.branch")
    assert preflight.estimate(config)


def test_import_asks_for_no_section_that_it_does_not_read(tmp_path):
    config = configs.load(NANO).unlock()
    for name in set(config) - {"seed", "simulate_devices", "teacher", "mesh"}:
        del config[name]
    assert preflight.problems(config, tmp_path / "run", ["import"]) == []


def test_a_student_of_one_step_has_one_branch_and_no_problem(tmp_path):
    config = configs.load(NANO.with_name("nano_1step.py"))
    assert preflight.problems(config, tmp_path) == []
    assert {step.name for step in preflight.steps_of(config)} >= {"split-student", "split-critic"}
    (line,) = found(tmp_path, "student.steps=1", "match.match.halved=0")
    assert "split.branches.lo (0.0, 500.0] holds none of the student's 1 timesteps" in line


def test_matching_that_does_not_fit_the_student_is_said_before_guide(tmp_path):
    (line,) = found(tmp_path, "student.steps=3")
    assert line.startswith("match.match.halved=0.5: student.steps=3 has no half: set it to 0")
    assert found(tmp_path, "student.steps=3", "match.match.halved=0") == []
    whole = sections.load(str(NANO), ["match.match.halved=0", "match.match.through=True"])
    (line,) = preflight.problems(whole, tmp_path / "run")
    assert line.endswith("it has no branches to split")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((*INTERVAL, "renoise=0.02,0.9"), "the student's grid goes to 0.9 in its first step"),
        (("level=line", "renoise=0.8,0.98"), "a step of the student begins at 0.75"),
        (("level=line", "last=share", "renoise=0.6,0.98"), "a step of the student begins at 0.5"),
    ],
)
def test_levels_that_the_students_grid_has_not_are_said_before_anything_is_trained(
    tmp_path, overrides, said
):
    """Scores would be compared outside the step: nan, and updates that are left out unsaid."""
    config = sections.load(str(NANO), [f"match.match.{override}" for override in overrides])
    (line,) = preflight.problems(config, tmp_path / "run")
    assert line.startswith("match.match.renoise=(") and said in line


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["student.steps=1", "match.match.halved=0"], "student.steps=1"),
        (["evaluate.teacher_steps=1"], "evaluate.teacher_steps=1"),
        (["student.steps=2"], ""),  # a row of one step is left out
    ],
)
def test_steps_that_the_teachers_scheduler_has_not_are_said_before_training(
    told, said, tiny_teacher, tmp_path
):
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, teacher)
    path = teacher / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shift_terminal": 0.02}))
    branch = ["split.branches.lo=0.0,1000.0", "match.heads.taps=0"]
    config = sections.load(str(NANO), [f"teacher.source={teacher}", *branch, *told])
    wrong = preflight.problems(config, tmp_path / "run")
    lines = [line for line in wrong if "shift_terminal" in line]
    assert [line.partition(":")[0] for line in lines] == ([said] if said else [])


def test_a_line_need_not_reach_the_last_step_which_is_renoised(tmp_path):
    told = ["match.match.level=line", "match.match.renoise=0.6,0.98"]
    assert preflight.problems(sections.load(str(NANO), told), tmp_path / "run") == []


def test_branches_are_asked_for_where_they_are_trained_alone(tmp_path):
    ranges = ["split.units=shifted", "split.branches.lo=0.0,400.0"]
    config = sections.load(str(NANO), ranges)
    assert preflight.problems(config, tmp_path / "run", ["import", "prepare", "match"]) == []


def test_data_that_changed_after_prepare_is_said_before_a_student_learns_the_old(tmp_path):
    """`prepare` is done, and would be skipped."""
    folder, workdir = tmp_path / "pictures", tmp_path / "run"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"number {number}")
    flags = [f"data.source={folder}", "data.train=0", "data.validation=0", "evaluate.judges=()"]
    config = sections.load(str(NANO), [*flags, "evaluate.prompts=" + str(folder / "0.txt")])
    (workdir / "prepare").mkdir(parents=True)
    digest = open_samples(config, workdir)["train"].digest
    Cache({"digest": digest}, {"side": 32}, (), {}).write(workdir / "prepare")
    assert preflight.problems(config, workdir, ["prepare"]) == []
    (folder / "3.txt").write_text("number three")
    (line,) = preflight.problems(config, workdir, ["prepare"])
    assert "data.source has changed since `prepare`" in line


def test_shifted_ranges_are_those_of_the_teachers_schedule(tmp_path):
    ranges = ["split.units=shifted", "split.branches.lo=0.0,400.0"]
    (line,) = preflight.problems(sections.load(str(NANO), ranges), tmp_path / "run")
    assert "split.branches.lo (0.0, 400.0] holds none of the student's 4 timesteps" in line


def test_what_a_run_takes_is_of_its_own_teacher_and_not_of_the_one_its_recipe_is_for(
    tiny_teacher, tmp_path
):
    overrides = [f"teacher.source={tiny_teacher}", "match.heads.taps=0,1", "data.source=nowhere"]
    overrides += ["data.size=64", "split.mesh.data=1", "mesh.data=1"]
    config = configs.load(NANO.with_name("sd35_medium_4step.py"), overrides)
    (line,) = preflight.problems(config, tmp_path)
    assert "data.source" in line
    planned = preflight.steps_of(config)
    weights = trees.count(folders.read_pipeline(tiny_teacher).transformer)
    (guide,) = (program for program in planned if program.name == "guide")
    bare = sum(leaf.size for leaf in jax.tree.leaves(guide.arguments[0].learner.ema))
    assert bare == weights and preflight.disk_bytes(config, planned) < 100 * 4 * weights


def test_an_imported_model_s_blocks_are_known_by_its_description_alone(shallow_teacher, tmp_path):
    """To open its tokenizers takes a second, of every start of `match`."""
    folder = tmp_path / "run" / "import"
    folder.mkdir(parents=True)
    keep_model(folder, read_pipeline(shallow_teacher), tokenizers=shallow_teacher)
    shutil.rmtree(folder / TOKENIZERS)

    def problems(taps):
        config = configs.load(NANO, [f"match.heads.taps={taps}"])
        return preflight.problems(config, tmp_path / "run", ["match"])

    assert problems("(0,)") == []
    (line,) = problems("(0,9)")
    assert line.startswith("match.heads.taps=(0, 9): the teacher has blocks 0 to ")


def test_prompts_alone_have_nothing_that_heads_could_see(tmp_path):
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    prompts = [f"data.source={tmp_path / 'p.txt'}", "evaluate.judges=()"]
    (line,) = found(tmp_path, *prompts)
    assert line.startswith("data.source has no pictures for the heads, but match.match.adv")
    (line,) = found(
        tmp_path, *prompts, "match.match.adversarial_weight=0", "match.match.feature_weight=1"
    )
    assert line.startswith("data.source has no pictures for the heads, but match.match.feature_wei")
    for more in ("match.match.adversarial_weight=0", "data.draw.steps=4"):
        assert not [line for line in found(tmp_path, *prompts, more) if "heads" in line]


def test_what_is_to_be_drawn_has_no_pictures_and_splits_over_the_devices(tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(f"prompt {n}" for n in range(100)))
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a picture")
    prompts = [f"data.source={tmp_path / 'p.txt'}", "evaluate.judges=()", "evaluate.samples=10"]
    drawn = ["data.draw.steps=4", "data.draw.batch_size=33", "mesh.data=2"]
    (line,) = found(tmp_path, *prompts, *drawn)
    assert line.startswith("data.draw.batch_size=33 does not split over data x fsdp = 2 devices")
    lines = found(tmp_path, f"data.source={tmp_path}", "evaluate.judges=()", "data.draw.steps=4")
    assert any("data.draw.steps=4, but data.source has pictures" in line for line in lines)


def test_a_single_file_without_a_base_is_said(tiny_teacher, tmp_path):
    single, parts = tmp_path / "t.safetensors", folders.read_parts(tiny_teacher)
    write_sai(single, parts, metadata={})
    (line,) = found(tmp_path, f"teacher.source={single}", "match.heads.taps=0,1")
    assert "t.safetensors has no model_index.json: give teacher.base" in line


WRONG = {
    "guide.job.steps=0": "guide.job.steps=0: give 1 or more",
    "split.job.checkpoint_steps=-1": "split.job.checkpoint_steps=-1: give 1 or more",
    "match.heads.taps=0,7": "the teacher has blocks 0 to 2",
    "teacher.source=nowhere": "teacher.source=nowhere does not exist",
    "data.source=nowhere": "data.source: nowhere does not exist",
    "evaluate.judges=clippy": "evaluate.judges: 'clippy'",
    "evaluate.prompts=absent.txt": "evaluate.prompts: absent.txt does not exist",
    "match.prompts=absent.txt": "match.prompts=absent.txt has no pictures for the heads",
    "guide.job.batch_size=31": "guide.job.batch_size=31 does not split",
    "mesh.fsdp=9": "mesh: mesh branch=1",
    "split.mesh.branch=1": "split.mesh.branch=1 but the job trains 2",
    "merge.weights.lo=0.5": "merge.weights (0.7, 0.5) must be 2 numbers that sum to 1",
    "data.size=4096": "data.size=4096: the teacher has places for 256 pixels a side",
    "export.dtype=int3": "export.dtype=int3",
    "quantize.schemes=q9": "quantize.schemes: 'q9'",
}


@pytest.mark.parametrize(("override", "line"), WRONG.items(), ids=WRONG)
def test_each_wrong_value_is_one_line(tmp_path, override, line):
    extra = ["mesh.data=2"] if "batch_size" in override else []
    (told,) = (text for text in found(tmp_path, override, *extra) if line in text)
    assert "\n" not in told


def test_all_are_listed_at_once_and_the_workdir_is_left_as_it_was(tmp_path, capsys):
    flags = ["run", "--config", str(NANO), "--workdir", str(tmp_path / "run")]
    wrong = ("guide.job.steps=0", "export.dtype=int3", "data.source=nowhere")
    flags += ["--config.simulate_devices=1", "--config.split.mesh.branch=1"]
    assert main([*flags, *(f"--config.{override}" for override in wrong)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 4 and all(line.startswith("flashjax run: ") for line in lines)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_too_small_is_said_before_anything_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("", (), {"free": 1e6}))
    (line,) = found(tmp_path)
    assert "977 KiB free" in line and "checkpoints" in line


def test_checkpoints_that_are_there_need_no_room(tmp_path, monkeypatch):
    """A run that goes on would be refused on the disk that it began on."""
    config = configs.load(NANO)
    need = preflight.disk_bytes(config, preflight.steps_of(config))
    usage = type("", (), {"free": need // 2})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    assert "iB free" in found(tmp_path)[0]
    state = tmp_path / "run" / "guide" / "checkpoints" / "2" / "state"
    state.parent.mkdir(parents=True)
    with state.open("wb") as file:
        file.truncate(need // 2 + 1)  # a file of holes
    assert not found(tmp_path)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({}, 2),
        ({"keep": 50}, 8),  # no more than are saved
        ({"milestone_steps": 100}, 5),  # 100 and 200, 300 and the last two
        ({"judge_steps": 50}, 3),
        ({"judge_steps": 100, "best": 9}, 5),
        ({"steps": 10}, 1),
    ],
)
def test_as_many_checkpoints_are_counted_as_a_job_keeps(told, kept):
    job = {"steps": 400, "batch_size": 1, "log_steps": 1, "checkpoint_steps": 50}
    assert preflight.kept_of(JobConfig(**job | told)) == kept


def test_branches_without_a_weight_are_named(tmp_path):
    config = configs.load(NANO)
    with config.unlocked():
        config.merge.weights = {"lo": 1.0}
    assert preflight.problems(config, tmp_path) == [
        "merge.weights names lo: the branches are hi, lo"
    ]


@pytest.mark.parametrize(("prompts", "needed"), [(False, 1000), (True, 500)])
def test_a_run_that_could_not_be_measured_at_its_end_is_told_so_at_its_begin(
    tmp_path, prompts, needed
):
    source = tmp_path / ("p.txt" if prompts else "p")
    if prompts:
        source.write_text("\n".join(f"prompt {n}" for n in range(100)))
    else:
        source.mkdir()
        for number in range(100):
            Image.new("RGB", (64, 64)).save(source / f"{number}.png")
            (source / f"{number}.txt").write_text("a picture")
    headless = ["match.match.adversarial_weight=0"] if prompts else []
    (line,) = found(tmp_path, f"data.source={source}", "evaluate.judges=()", *headless)
    assert f"evaluate.samples=500: 20 samples are held out, and {needed} are needed" in line
    few = f"evaluate.samples={20 if prompts else 10}"
    assert found(tmp_path, f"data.source={source}", "evaluate.judges=()", few, *headless) == []


def test_scenes_are_too_few_as_pictures_of_a_folder_are(tmp_path):
    line = "evaluate.samples=800: 1500 samples are held out, and 1600 are needed, to draw and to "
    line += "compare with: lower it, or raise data.validation"
    assert found(tmp_path, "evaluate.samples=800") == [line]
    assert found(tmp_path, "evaluate.samples=750") == []


@pytest.mark.parametrize("verb", ["import", "guide", "run"])
def test_heads_without_pictures_are_refused_before_the_first_stage(tmp_path, verb, capsys):
    """`match` would find it out, after all of `guide`."""
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    place = ["--config", str(NANO), "--workdir", str(tmp_path / "run")]
    wrong = [f"--config.match.prompts={tmp_path / 'p.txt'}", "--config.simulate_devices=1"]
    more = ["--from", "guide", "--to", "match"] if verb == "run" else []
    assert main([verb, *place, *more, *wrong, "--config.split.mesh.branch=2"]) == 2
    assert "has no pictures for the heads" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_stage_asks_for_its_own_mesh_alone(tmp_path):
    """Jobs of their own may run on other machines."""
    config = configs.load(NANO, ["split.mesh.branch=2", "split.mesh.data=64", "mesh.fsdp=2"])
    assert preflight.problems(config, tmp_path, ["guide"]) == []
    (line,) = preflight.problems(config, tmp_path, ["split"])
    assert line.startswith("split.mesh: ")
