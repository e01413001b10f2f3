"""The grid: which cells there are, in which order, and what each changes in the recipe."""

from pathlib import Path

import pytest

from flashjax import config as configs
from flashjax.tools.ablate.cell import digest_of
from flashjax.tools.ablate.command import checked, waves
from flashjax.tools.ablate.grid import Cell, cells, configured, needs, read_grid, trained_by
from flashjax.types import InputError

FILE = Path(__file__).parents[3] / "configs" / "ablation_nano.py"


@pytest.fixture(scope="module")
def config():
    return configs.load(FILE)


@pytest.fixture(scope="module")
def grid(config):
    return checked(config)


def test_the_grid_has_every_arm_anchor_pull_steps_and_seed_once(grid):
    every = cells(grid)
    assert len({cell.name for cell in every}) == len(every)
    arms = [cell for cell in every if cell.arm and not cell.split]
    assert len(grid.arms) >= 10 and len(grid.seeds) >= 3
    left = len(grid.later) + 2 * len(grid.halving)
    assert len(arms) == (len(grid.arms) * 3 - left) * 4 * len(grid.seeds)
    assert not any(cell.steps == 1 and cell.arm in grid.later for cell in arms)
    assert {cell.steps for cell in arms if cell.arm in grid.halving} == {4}
    assert {(cell.trajectory, cell.pull) for cell in arms} == {
        (0.1, 0.02),
        (0.1, 0.0),
        (0.0, 0.02),
        (0.0, 0.0),
    }


def test_what_others_go_on_from_comes_first_and_seeds_take_turns(grid):
    every = cells(grid)
    order = {cell.name: place for place, cell in enumerate(every)}
    for cell in every:
        assert all(order[name] < order[cell.name] for name in needs(grid, cell))
    first = [cell for cell in every if cell.arm in grid.first and not cell.split]
    number = 3 * len(grid.first) - 1  # `share_any` is none of one step
    assert every[3 : 3 + 3 * number] == first[: 3 * number] and every[3 + 3 * number].split
    assert [cell.seed for cell in first[: 3 * number]] == [0] * number + [1] * number + [2] * number


def test_of_a_wave_no_cell_waits_for_another(grid):
    every = cells(grid)
    parts = list(waves(grid, every))
    assert [cell for part in parts for cell in part] == every and len(parts) < 12
    for part in parts:
        names = {cell.name for cell in part}
        assert not any(needs(grid, cell) & names for cell in part)


def test_branches_are_trained_once_where_only_their_merge_differs(grid):
    pair = Cell(4, "renoise", 0.1, 0.02, 0, "pair")
    apart = Cell(4, "renoise", 0.1, 0.02, 0, "experts")
    assert trained_by(grid, pair) == trained_by(grid, apart)
    plain, average = (Cell(4, "renoise", 0.1, 0.02, 0, name) for name in ("plain", "average"))
    assert trained_by(grid, plain) == plain and trained_by(grid, average) == average


def test_ranges_without_a_step_are_no_cell(grid):
    splits = {(cell.steps, cell.split) for cell in cells(grid) if cell.split}
    assert (4, "quarters") in splits and (2, "quarters") not in splits
    assert (1, "plain") in splits and (1, "pair") not in splits


def test_a_cell_changes_its_arm_and_its_terms_alone(config, grid):
    cell = Cell(2, "interval", 0.0, 0.0, 2)
    found, recipe = configured(config, grid, cell), config.match.match
    assert found.seed == 2 and found.student.steps == 2 and found.guide.guide.substeps == 8
    match = found.match.match
    assert found.match.job.to_dict() == config.match.job.to_dict()
    changed = {key for key in match if match[key] != recipe.get(key)}
    assert changed == {
        "level",
        "adversarial_weight",
        "trajectory_weight",
        "fake_pull",
        "halved",
    }
    assert config.seed == 0 and config.student.steps == 4


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_control_learns_of_as_fine_a_teacher_as_the_student_that_it_goes_on_from(
    config, grid, steps
):
    control = configured(config, grid, Cell(steps, "regress", 0.1, 0.02))
    assert control.match.match.trajectory_substeps == control.guide.guide.substeps == 16 // steps
    others = configured(config, grid, Cell(steps, "renoise", 0.1, 0.02))
    assert others.match.match.trajectory_substeps == 4 // steps
    assert "anchor_substeps" not in control.match


def test_without_captions_nothing_guides():
    found = configs.load(f"{FILE}:blank_short")
    assert found.data.captions == "none" and found.match.job.steps == 120
    scales = found.guide.guide, found.match.match, found.evaluate
    assert {section.guidance_scale for section in scales} == {1.0}


@pytest.mark.parametrize(("arm", "told"), [("halved", False), ("told", True)])
def test_an_arm_that_halves_does_so_where_others_do_not(config, grid, arm, told):
    match = configured(config, grid, Cell(4, arm, 0.1, 0.02)).match.match
    assert match.halved == 0.5 and match.get("told", False) == told
    assert configured(config, grid, Cell(4, "renoise", 0.1, 0.02)).match.match.halved == 0


def test_a_split_has_its_branches_a_mesh_for_them_and_weights_by_name(config, grid):
    found = configured(config, grid, Cell(4, "renoise", 0.1, 0.02, 0, "quarters"))
    assert found.split.mesh.branch == len(found.split.branches) == 4
    assert grid.splits["pair"].weights[2] == {"lo": 0.3, "hi": 0.7}


WRONG = {
    'ablate.arms.renoise.match.level="nowhere"': "ablate.arms.renoise: match.match.level takes",
    "ablate.split_from=nobody": "ablate.split_from has 'nobody': choose of the arms",
    "ablate.first=nobody": "ablate.first has 'nobody'",
    "ablate.halving=nobody": "ablate.halving has 'nobody'",
    "ablate.arms.regress.anchor_substeps=0": "arms.regress.anchor_substeps is 0: give 1 or more",
    "ablate.arms.renoise.match.eta=2.0": "ablate.arms.renoise: match.match.eta=2.0: give",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_grid_that_is_none_is_refused_before_anything_is_trained(override):
    with pytest.raises(InputError, match=WRONG[override].replace("'", "['\"]")):
        checked(configs.load(FILE, [override.replace('"', "")]))


def test_weights_of_other_branches_are_refused(config):
    wrong = configs.ConfigDict(config.to_dict()).unlock()
    wrong.ablate.splits.pair.weights = ({"lo": 0.5, "all": 0.5},)
    with pytest.raises(InputError, match=r"ablate\.splits\.pair: weights .* one of each of"):
        read_grid(wrong)


def test_a_config_without_a_grid_names_one_that_has_it():
    with pytest.raises(InputError, match="no section `ablate`"):
        read_grid(configs.load(FILE.with_name("nano.py")))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("match.job.checkpoint_steps=7", True),
        ("evaluate.judges=('digit_scenes','clip=/elsewhere')", True),
        ("data.source=/elsewhere", True),
        ("data.train=7", False),
        ("match.fake_optimiser.learning_rate=0.5", False),
        ("guide.job.steps=7", False),
        ("split.job.steps=7", False),
        ("evaluate.seed=8", False),
        ("ablate.arms.renoise.match.last=share", False),
    ],
)
def test_a_cell_is_told_by_what_makes_its_result_on_any_machine(change, same):
    def digest(*overrides):
        config = configs.load(FILE, ["evaluate.judges=('digit_scenes','clip=/here')", *overrides])
        return digest_of(config, read_grid(config), Cell(4, "renoise", 0.1, 0.02, 1, "pair"))

    assert (digest(change) == digest()) is same
