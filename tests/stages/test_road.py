"""The whole road at its smallest: stages run, are skipped when done, and refuse what differs."""

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from flashjax import trees
from flashjax.checkpoint import load_params
from flashjax.convert.folder import read_configs, read_transformer
from flashjax.models.halved import HALF, told
from flashjax.sources import open_file, read_parts
from flashjax.stages import guide, match, split
from flashjax.stages.setting import open_setting, read_setting
from flashjax.stages.stage import read_stage
from flashjax.stages.training import curves
from flashjax.tools import sections

CONFIG = Path(__file__).parents[2] / "configs" / "nano.py"
STAGES = (
    "import",
    "prepare",
    "guide",
    "match",
    "split",
    "merge",
    "export",
    "quantize",
    "evaluate",
    "report",
)


def small(teacher: Path) -> list[str]:
    """Overrides that make every stage as short as it can be."""
    sizes = {
        "teacher.source": teacher,
        "match.heads.taps": "0",
        "data.train": 32,
        "data.validation": 16,
        "evaluate.samples": 8,
        "evaluate.chunk": 8,
        "evaluate.shown": 2,
        "evaluate.teacher_steps": 3,
        "match.match.halved": 1.0,
        "match.match.told": True,
        "match.student_optimiser.learning_rate": 3e-3,  # so that two steps are seen in float16
    }
    for stage in ("guide", "match", "split"):
        sizes |= {f"{stage}.job.steps": 2, f"{stage}.job.batch_size": 4}
        sizes |= {f"{stage}.job.log_steps": 1, f"{stage}.job.checkpoint_steps": 1}
    sizes["guide.job.sample_steps"] = 2
    return [f"--config.{key}={value}" for key, value in sizes.items()]


@pytest.fixture(scope="module")
def flashjax(undivided) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a process of its own."""
    return lambda *arguments: subprocess.run(
        [sys.executable, "-m", "flashjax", *arguments],
        env=undivided,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def road(
    flashjax, shallow_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A finished run and its arguments."""
    workdir = tmp_path_factory.mktemp("road")
    arguments = ["--config", str(CONFIG), "--workdir", str(workdir), *small(shallow_teacher)]
    done = flashjax("run", *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    return workdir, arguments


def test_every_stage_finishes_and_says_so(road):
    workdir, _ = road
    for stage in STAGES:
        assert read_stage(workdir / stage)["status"] == "done", stage


def test_the_report_is_one_file_with_every_sampler(road):
    workdir, _ = road
    page = (workdir / "report" / "report.html").read_text()
    rows = read_stage(workdir / "evaluate")["results"]["rows"]
    assert len(rows) == 10
    assert all(row["name"] in page for row in rows)
    assert 'src="http' not in page and 'href="http' not in page


def test_pictures_of_the_report_say_the_seed_that_they_were_drawn_with(road):
    workdir, _ = road
    section = read_stage(workdir / "evaluate")["section"]
    page = (workdir / "report" / "report.html").read_text()
    files = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    seeds = {Image.open(io.BytesIO(base64.b64decode(file))).text["seed"] for file in files}
    assert seeds == {str(section["seed"])} == {"7"}
    assert "Drawn with seed 7." in page


def test_a_job_leaves_curves_of_its_speed_and_a_page_with_its_last_pictures(road):
    workdir, _ = road
    last = curves(workdir / "guide")[-1]
    assert last["speed/mfu"] > 0 and last["speed/samples_per_second"] > 0
    assert last["student/learning_rate"] > 0 and last["goodput/compile_seconds"] > 0
    page = (workdir / "guide" / "live.html").read_text("utf-8")
    assert "teacher above student, step 2" in page and "data:image/png;base64," in page
    assert "The job has ended." in page


def test_a_finished_road_is_skipped_and_ends_with_its_report_again(flashjax, road):
    workdir, arguments = road
    before = (workdir / "match" / "stage.json").read_text()
    again = flashjax("run", *arguments)
    assert again.returncode == 0 and "match skipped: already done" in again.stderr
    assert again.stdout.splitlines()[-1] == str(workdir.resolve() / "report" / "report.html")
    assert (workdir / "match" / "stage.json").read_text() == before


def test_a_workdir_of_another_config_is_refused_in_one_line(flashjax, road):
    _, arguments = road
    refused = flashjax("match", *arguments, "--config.match.match.eta=1.0")
    assert refused.returncode == 2
    assert "match.eta" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def opened(road) -> tuple[ConfigDict, Path]:
    """The config of the run, as its stages see it, with a teacher that is stored in less."""
    workdir, arguments = road
    overrides = [flag.removeprefix("--config.") for flag in arguments[4:]]
    config = sections.load(str(CONFIG), overrides).unlock()
    config.compute = {"teacher_dtype": "bfloat16", "dtype": "bfloat16"}
    return config, workdir


def same(got, want):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), jax.device_get(want))


def test_student_and_fake_score_begin_with_the_weights_as_they_were_imported(opened):
    config, workdir = opened
    imported = load_params(workdir / "import" / "params" / "transformer")
    shapes = open_setting(config, workdir, mesh=config.mesh)
    frozen = read_setting(config, workdir, shapes).frozen
    assert frozen.teacher["final"]["kernel"].dtype == "bfloat16"
    same(guide.guided(config, workdir, shapes).begin(frozen).learner.params, imported)
    state = match.matched(config, workdir, shapes).begin(frozen)
    same(state.fake.params, imported)
    same(told(state.student.params, halved=False), load_params(workdir / "guide" / "params"))
    assert not state.student.params[HALF]["bias"].any()


@pytest.mark.parametrize("captions", ["within the steps", "apart", "of a file"])
def test_what_is_read_is_what_the_steps_were_compiled_for(opened, captions, tmp_path):
    """Shapes, dtypes and layouts of all that a step reads, on a mesh of several devices."""
    config, workdir = opened
    config = config.copy_and_resolve_references()
    config.compute.encode_apart = captions == "apart"
    prompts = tmp_path / "prompts.txt" if captions == "of a file" else ""
    if prompts:
        prompts.write_text("a red seven on white\n" * 8)
    mesh = {"data": 2, "fsdp": 4}
    shapes = open_setting(config, workdir, mesh=mesh, student="match", prompts=str(prompts))
    read = read_setting(config, workdir, shapes)
    want = shapes.frozen, shapes.abstract_batch(8)
    got = read.frozen, next(read.batches(8, seed=0))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for path, leaf in trees.flatten(want).items():
        found = trees.flatten(got)[path]
        assert (found.shape, found.dtype) == (leaf.shape, leaf.dtype), path
        assert found.sharding.is_equivalent_to(leaf.sharding, found.ndim), path


def test_the_position_table_comes_out_as_it_came_in_bit_for_bit(opened):
    """Trained, averaged, branched and merged: the checkpoint's own table."""
    _, workdir = opened
    table = load_params(workdir / "import" / "params" / "transformer")["position"]
    for stage in ("guide", "match", "split/lo", "merge"):
        found = load_params(workdir / stage / "params")
        np.testing.assert_array_equal(found["position"], table, err_msg=stage)


def test_branches_begin_with_the_critic_that_matching_trained(opened):
    """Its weights and its optimisers' memory; the schedule of rates is that of the new job."""
    config, workdir = opened
    shapes = split.open_branches(config, workdir)
    frozen = read_setting(config, workdir, shapes).frozen
    method = split.branched(config, workdir, shapes, *split.chosen_branches(config))
    state, trained = method.begin(frozen), load_params(workdir / "match" / "critic" / "params")
    same(state.student.params, jax.tree.map(lambda x: np.stack([x] * 2), frozen.student))
    teacher = load_params(workdir / "import" / "params" / "transformer")
    assert np.any(trained["fake"]["params"]["final"]["kernel"] != teacher["final"]["kernel"])
    for name in ("fake", "heads"):
        learner = getattr(state, name)
        assert learner.ema is None
        for branch in range(2):
            mine = jax.tree.map(lambda leaf, b=branch: leaf[b], learner)
            same(mine.params, trained[name]["params"])
            kept = trees.flatten(trained[name]["opt"])
            found = {k: np.asarray(v) for k, v in trees.flatten(mine.opt).items()}
            assert kept.keys() == found.keys() and len(kept) > 3
            (rate,) = (key for key in found if key.endswith("3/count"))
            assert found.pop(rate) == 0 and kept[rate] == 2 * config.match.critic_updates
            for key, value in found.items():
                np.testing.assert_array_equal(value, kept[key], err_msg=key)
        assert any(value.any() for key, value in found.items() if "nu" in key)


def test_branches_start_from_the_matched_student_and_part(road):
    workdir, _ = road
    records = (workdir / "split" / "metrics" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(records[-1])
    assert last["lo/student/matching_loss"] != last["hi/student/matching_loss"]


def test_a_told_student_ships_as_two_networks_that_differ_in_one_bias(road):
    """The vector is matched, parts with the branches, is merged with them, and is in no file."""
    workdir, _ = road
    found = {
        stage: load_params(workdir / stage / "params")
        for stage in ("match", "split/lo", "split/hi", "merge")
    }
    vectors = {stage: params[HALF]["bias"] for stage, params in found.items()}
    lo, hi = vectors["split/lo"], vectors["split/hi"]
    assert vectors["match"].any() and np.any(lo != hi) and np.any(lo != vectors["match"])
    np.testing.assert_allclose(vectors["merge"], 0.3 * lo + 0.7 * hi, rtol=1e-4, atol=1e-9)

    biases = []
    for halved, folder in ((False, "diffusers"), (True, "halved")):
        shipped, _ = read_transformer(workdir / "export" / folder / "transformer")
        same(shipped, trees.cast(told(found["merge"], halved), np.float16))
        biases.append(shipped["time_2"]["bias"])
    assert np.any(biases[0] != biases[1])
    single = open_file(workdir / "export" / "student.safetensors")
    assert not any(HALF in name for name in single)


def test_two_steps_are_drawn_by_the_student_that_is_told_of_them(road):
    workdir, _ = road
    rows = read_stage(workdir / "evaluate")["results"]["rows"]
    notes = {row["name"]: row["note"] for row in rows}
    assert notes["student after merge, 2 steps"] == "exported, float16, told of it"
    assert notes["student after merge, 4 steps"] == "exported, float16"


def test_a_stage_s_weights_alone_are_the_network_too(road):
    workdir, _ = road
    known = read_configs(workdir / "export" / "diffusers")
    params, _ = read_parts(workdir / "merge", known=known)["transformer"]
    same(params, told(load_params(workdir / "merge" / "params"), halved=False))


def test_a_stages_folder_draws_what_its_exported_file_draws(flashjax, road, tmp_path):
    """The run has the tokenizers and the other networks: no base is asked for."""
    workdir, _ = road
    pictures = []
    for name, source in (("stage", "merge"), ("file", "export/diffusers")):
        out = tmp_path / name
        flags = ("--source", str(workdir / source), "--out", str(out), "--steps", "2")
        found = flashjax("sample", "--prompt", "a red seven on white", *flags)
        assert found.returncode == 0, found.stderr
        with Image.open(out / "0000.png") as image:
            pictures.append(np.asarray(image).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 2
    assert pictures[0].std() > 1
