"""Every recipe opens, says each constant once, and takes a teacher that is not SD3.5."""

from pathlib import Path

import pytest

from flashjax import config as configs
from flashjax.cli import main
from flashjax.stages.stage import read_stage

FOLDER = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path.name for path in FOLDER.glob("sd35_*.py"))
METHODS = {name: f"sd35_{'large' if 'large' in name else 'medium'}_4step.py" for name in RECIPES}
MACHINE = ("mesh.", "split.mesh.", "compute.", "job.batch_size")  # what a machine may change


def leaves(tree, path=""):
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, value in tree.items() for k, v in leaves(value, f"{path}.{key}").items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_imports_another_teacher_on_a_mesh_of_ones(name, tiny_teacher, tmp_path):
    flags = ["import", "--config", str(FOLDER / name), "--workdir", str(tmp_path)]
    sizes = {axis: 1 for axis in ("branch", "data", "fsdp", "context", "tensor")}
    sizes |= {"dcn.branch": 1, "dcn.data": 1}
    flags += [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]
    assert main([*flags, f"--config.teacher.source={tiny_teacher}"]) == 0
    assert read_stage(tmp_path / "import")["status"] == "done"


@pytest.mark.parametrize("name", [n for n in RECIPES if not n.endswith("step.py")])
def test_a_machines_recipe_is_its_method_laid_out(name):
    variant = ":512px" if "_512_" in name else ""
    ours = leaves(configs.to_dict(configs.load(FOLDER / name)))
    method = leaves(configs.to_dict(configs.load(f"{FOLDER / METHODS[name]}{variant}")))
    differ = {key for key in ours.keys() | method.keys() if ours.get(key) != method.get(key)}
    assert differ and all(any(word in key for word in MACHINE) for key in differ), differ


def test_variants_change_what_they_name_and_an_unknown_one_is_refused():
    name = FOLDER / "sd35_medium_2step.py"
    plain, small = configs.load(name), configs.load(f"{name}:512px,prompts")
    assert (plain.data.size, small.data.size) == (1024, 512)
    assert small.match.match.adversarial_weight == 0 and plain.match.match.adversarial_weight > 0
    assert plain.guide.guide.substeps * plain.student.steps == 32
    with pytest.raises(configs.InputError, match="'256px' is unknown: choose of 512px, prompts"):
        configs.load(f"{name}:256px")


def test_nothing_is_inherited_from_the_miniature():
    for name in RECIPES:
        text = (FOLDER / name).read_text()
        assert "nano" not in text, name
