"""The whole road of every recipe and variant, shrunk by overrides alone.

Recipes that differ in titles, in how they are carried out, or in the model that a plan is of, are
one and the same once they are shrunk. What is left are four roads, of steps and of data. That of
four steps and pictures is the small rehearsal: two layouts of a teacher, dirty data, a kill and a
new start. That of two steps and prompts is run, too, and the other two with ROADS=all. One process
runs these, for each would compile anew what they share.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.launch import rehearse
from flashjax.stages.identity import OPERATION, leaves
from flashjax.stages.run import ROAD
from flashjax.stages.stage import read_stage, stage_results

ALL = os.environ.get("ROADS") == "all"
FOLDER = Path(__file__).parents[2] / "configs"
RUNNER = """
import json, sys, jax
from flashjax.cli import main
for arguments in json.load(sys.stdin):
    if main(arguments):
        sys.exit(f"failed: {arguments}")
    jax.clear_caches()
"""
PROMPTS = "\ufeffa red seven\r\n\r\n" + "\n".join(f"a temple {'far ' * n}away" for n in range(14))


def recipes() -> list[str]:
    """Every recipe, with every variant of those that have any."""
    found = []
    for path in sorted(FOLDER.glob("sd35_*.py")):
        varied = "def get_config(variants" in path.read_text()
        variants = ("", ":512px", ":prompts", ":512px,prompts") if varied else ("",)
        found += [path.name + variant for variant in variants]
    return [recipe for recipe in found if ALL or ("2step" in recipe) == ("prompts" in recipe)]


def is_rehearsed(recipe: str) -> bool:
    """Whether it has four steps and learns from pictures, as the rehearsal's."""
    return "2step" not in recipe and "prompts" not in recipe


def shrunk(recipe: str, teacher: Path, data: Path) -> list[str]:
    """The overrides that make every stage of a recipe as short as it can be."""
    sizes: dict[str, object] = {
        "teacher.source": teacher,
        "data.source": data / ("prompts.txt" if "prompts" in recipe else "pictures"),
        "data.size": 64,
        "data.smallest": 2,
        "data.validation": 3,
        "match.heads.taps": "0",
        "match.heads.width": 8,
        "match.critic_updates": 1,
        "match.match.trajectory_substeps": 1,
        "guide.guide.substeps": 1,
        "evaluate.samples": 1,
        "evaluate.chunk": 1,
        "evaluate.shown": 1,
        "evaluate.teacher_steps": 3,
        "simulate_devices": 2,
        "split.mesh.branch": 2,
        "compute.attention": "xla",
        "compute.remat": "none",
        "compute.dtype": "float32",
    }
    for mesh in ("mesh", "split.mesh"):
        sizes |= {f"{mesh}.{axis}": 1 for axis in ("data", "fsdp", "context", "tensor")}
        sizes |= {f"{mesh}.dcn.{axis}": 1 for axis in ("branch", "data")}
    for stage in ("guide", "match", "split"):
        sizes |= {f"{stage}.job.steps": 1, f"{stage}.job.batch_size": 2}
        sizes |= {f"{stage}.job.log_steps": 1, f"{stage}.job.checkpoint_steps": 1}
    return [f"{key}={value}" for key, value in sizes.items()]


def identity(config: ConfigDict | dict) -> dict:
    """What a run comes to: nothing of how it is carried out, no title, no model of a plan."""
    of_plans = ("simulate_devices", "model", "export.title", "report.title")
    return {
        key: value
        for key, value in leaves(configs.to_dict(config)).items()
        if not OPERATION.fullmatch(key) and not key.startswith(of_plans)
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty crops of a photograph with captions, and a file of prompts."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures").mkdir()
    photograph = load_sample_image("china.jpg")
    for number in range(20):
        crop = photograph[10 * number : 10 * number + 64 + number, : 64 + 2 * number]
        Image.fromarray(crop).save(folder / "pictures" / f"{number}.png")
        (folder / "pictures" / f"{number}.txt").write_text(f"part {number} of a temple")
    (folder / "prompts.txt").write_text(PROMPTS, newline="")
    return folder


@pytest.fixture(scope="module")
def rehearsed(
    undivided, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, object], Path]:
    """The small rehearsal's overrides and its workdir, once all of its checks have held."""
    home = tmp_path_factory.mktemp("rehearsal")
    words = [sys.executable, rehearse.__file__, "--small", "--workdir", str(home)]
    done = subprocess.run(words, env=undivided, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    source = {"teacher.source": home / "teacher" / "folder"}
    return rehearse.overrides(rehearse.SMALL, home / "data") | source, home / "run"


@pytest.fixture(scope="module")
def roads(
    undivided,
    rehearsed,
    shallow_teacher: Path,
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
):
    """Runs each road once; `(config, workdir)` by recipe."""
    home, found, arguments = tmp_path_factory.mktemp("roads"), {}, {}
    for recipe in recipes():
        if is_rehearsed(recipe):
            overrides = [f"{key}={value}" for key, value in rehearsed[0].items()]
            found[recipe] = configs.load(FOLDER / recipe, overrides), rehearsed[1]
            continue
        overrides = shrunk(recipe, shallow_teacher, data)
        config = configs.load(FOLDER / recipe, overrides)
        workdir = home / configs.digest(identity(config))
        found[recipe] = config, workdir
        flags = ["run", "--config", str(FOLDER / recipe), "--workdir", str(workdir)]
        arguments.setdefault(workdir, flags + [f"--config.{override}" for override in overrides])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        env=undivided,
        input=json.dumps(list(arguments.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return found


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_comes_from_its_teacher_to_its_report(recipe, roads):
    config, workdir = roads[recipe]
    for stage in ROAD.values():
        name = stage.__name__.rpartition(".")[2].removesuffix("_teacher")
        assert read_stage(workdir / name)["status"] == "done", name
    rows = {row["name"] for row in stage_results(workdir / "evaluate")["rows"]}
    page = (workdir / "report" / "report.html").read_text()
    steps = config.student.steps
    assert {f"student after merge, {steps} steps", f"student 6-bit, {steps} steps"} <= rows
    assert ("real pictures" in rows) == ("prompts" not in recipe and not config.evaluate.prompts)
    assert all(name in page for name in rows)


def test_recipes_differ_in_steps_and_data_alone(roads):
    told = {
        workdir: (config.student.steps, bool(config.match.match.adversarial_weight))
        for config, workdir in roads.values()
    }
    others = [(2, True), (4, False)] if ALL else []
    assert sorted(told.values()) == sorted([(2, False), (4, True), *others])


def test_what_ran_in_its_workdir_is_what_a_recipe_comes_to(roads):
    for config, workdir in roads.values():
        ran = json.loads((workdir / "config.json").read_text())
        assert identity(ran) == json.loads(json.dumps(identity(config)))
