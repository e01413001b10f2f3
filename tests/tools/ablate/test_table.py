"""The table: means and Student's intervals over seeds; scipy is the oracle."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from flashjax.stages.stage import run_stage, write_json
from flashjax.tools.ablate.cell import BROKEN, CELLS, JUDGED, SHARED, state_of
from flashjax.tools.ablate.command import left_of
from flashjax.tools.ablate.grid import AblateConfig, Cell, SplitArm, cells
from flashjax.tools.ablate.page import write
from flashjax.tools.ablate.table import brought_by, rows_of, summary, value_of, values_of
from flashjax.types import InputError

GRID = AblateConfig(
    steps=(4,),
    seeds=(0, 1, 2),
    arms={"renoise": {}, "share": {}},
    trajectory=(0.1,),
    pull=(0.02,),
    splits={"pair": SplitArm({"lo": (0, 500), "hi": (500, 1000)}, ({"lo": 0.3, "hi": 0.7},))},
    split_from="renoise",
)


def asked(cell):
    """What stands for the digest of a cell's config."""
    return f"config of {cell.name}"


def figures(value):
    rest = {"unit": "", "error": None, "heading": ""}
    distance = {"name": "distance", "value": 1 / value, "better": "less", "decimals": 3} | rest
    return {
        "figures": [
            {"name": "whole", "value": value, "better": "more", "decimals": 1} | rest,
            distance,
        ],
        "samples": 4,
    }


@pytest.fixture
def workdir(tmp_path):
    def done(place, results):
        run_stage(JUDGED, {}, place, lambda folder: results, inputs={}, seed=0)

    shared = {"teacher": figures(90.0), "real": figures(95.0), "notes": ["what it means"]}
    done(tmp_path / SHARED, shared)
    done(tmp_path / CELLS / "4-guided", {"student": figures(60.0)})
    for seed, value in enumerate((70.0, 74.0, 75.0)):
        cell = Cell(4, "renoise", 0.1, 0.02, seed)
        done(tmp_path / CELLS / cell.name, {"student": figures(value)})
    split = Cell(4, "renoise", 0.1, 0.02, 0, "pair")
    weights = {"lo": 0.3, "hi": 0.7}
    done(tmp_path / CELLS / split.name, {"student": figures(80.0), "weights": weights})
    broken = tmp_path / CELLS / Cell(4, "share", 0.1, 0.02, 1).name
    broken.mkdir(parents=True)
    write_json(broken / BROKEN, {"error": "10 updates were skipped"})
    return tmp_path


def test_an_interval_is_students_over_the_seeds():
    values = np.array([70.0, 74.0, 75.0])
    found = value_of(values)
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert found.mean == pytest.approx(73.0) and found.seeds == 3
    assert found.half == pytest.approx((high - low) / 2)
    assert value_of([5.0]).half is None


def test_a_figure_is_of_the_seeds_that_have_it():
    """A judge is left out where its weights are not, as on another machine."""
    less, full = figures(80.0), figures(84.0)
    full["figures"].append({"name": "FD", "value": 3.0})
    for rows in ([less, full], [full, less]):
        found = values_of(rows)
        assert found["whole"].mean == 82.0 and found["whole"].seeds == 2
        assert found["FD"] == value_of([3.0])


def test_figures_of_one_name_under_two_headings_are_two(workdir):
    """A judge is free to have them; neither stands for the other."""

    def twice(red, round_):
        row = figures(red)
        whole = row["figures"][0] | {"name": "mean"}
        row["figures"] = [
            whole | {"heading": "Colour"},
            whole | {"heading": "Shape", "value": round_},
        ]
        return row

    shared = {"teacher": twice(90.0, 50.0), "real": None, "notes": []}
    run_stage(JUDGED, {}, workdir / "two" / SHARED, lambda _: shared, inputs={}, seed=0)
    place = workdir / "two" / CELLS / "4-guided"
    run_stage(JUDGED, {}, place, lambda _: {"student": twice(80.0, 40.0)}, inputs={}, seed=0)
    told = summary(GRID, workdir / "two", "", {}, asked)
    assert [(f["name"], f["value"]) for f in told["teacher"]["figures"]] == [
        ("Colour, mean", 90.0),
        ("Shape, mean", 50.0),
    ]
    (row,) = rows_of(GRID, workdir / "two", {})
    assert {name: value.mean for name, value in row.values.items()} == {
        "Colour, mean": 80.0,
        "Shape, mean": 40.0,
    }
    assert told["results"]["4-guided"]["student"]["figures"][1]["value"] == 40.0


def test_rows_are_what_is_done_with_what_broke(workdir):
    guided, renoise, share, split = rows_of(GRID, workdir, {})
    assert [guided.arm, renoise.arm, share.arm, split.split] == ["", "renoise", "share", "pair"]
    assert renoise.values["whole"].mean == pytest.approx(73.0)
    assert renoise.values["whole"].seeds == 3 and guided.values["whole"].half is None
    assert share.broken == 1 and not share.values
    assert split.weights == [{"lo": 0.3, "hi": 0.7}]


def test_an_arm_with_a_term_of_its_own_is_told_with_it(workdir):
    arms = {**GRID.arms, "free": {"match": {"trajectory_weight": 0.0, "eta": 1.0}}}
    place = workdir / CELLS / Cell(4, "free", 0.1, 0.02, 0).name
    run_stage(JUDGED, {}, place, lambda _: {"student": figures(80.0)}, inputs={}, seed=0)
    rows = rows_of(dataclasses.replace(GRID, arms=arms), workdir, {})
    found = {row.arm: (row.trajectory, row.pull) for row in rows}
    assert found["free"] == (0.0, 0.02) and found["share"] == (0.1, 0.02)


def test_a_student_that_halves_its_steps_stands_among_those_of_half_as_many(workdir):
    grid = dataclasses.replace(
        GRID, steps=(4, 2), arms={**GRID.arms, "told": {}}, halving=("told",)
    )
    for seed, value in enumerate((60.0, 64.0)):
        cell = Cell(4, "told", 0.1, 0.02, seed)
        results = {"student": figures(80.0), "halved": figures(value)}
        run_stage(
            JUDGED, {}, workdir / CELLS / cell.name, lambda _, r=results: r, inputs={}, seed=0
        )
    found = {(row.steps, row.arm): row.values for row in rows_of(grid, workdir, {})}
    assert found[4, "told"]["whole"].mean == 80.0
    assert found[2, "told, of 4 steps"]["whole"].mean == 62.0
    alone = rows_of(
        dataclasses.replace(grid, steps=(4,)), workdir, {}
    )  # no such rows to stand among
    assert {row.steps for row in alone} == {4}


def test_the_page_and_the_json_say_the_same(workdir):
    told = summary(GRID, workdir, "flashjax ablate", {}, asked)
    assert told["cells"]["done"] == 5 and told["cells"]["all"] == 1 + 6 + 3
    assert list(told["cells"]["broken"].values()) == ["10 updates were skipped"]
    write(workdir / "a.html", GRID, workdir, told, "Arms & legs", {})
    page = (workdir / "a.html").read_text()
    half = dataclasses.asdict(value_of([70.0, 74.0, 75.0]))["half"]
    assert f"73.0 ± {half:.1f}" in page and "Arms &amp; legs" in page
    assert '<td class="best">80.0</td>' in page and "1 broke" in page
    assert page.count("<html") == 1 and 'src="http' not in page


def test_what_others_ran_is_in_the_table_and_not_left(workdir, tmp_path_factory):
    """A new workdir with a table of this one knows its cells, and adds a seed to them."""
    table = tmp_path_factory.mktemp("other") / "ablation.json"
    write_json(table, summary(GRID, workdir, "flashjax ablate", {}, asked))
    here = tmp_path_factory.mktemp("here")
    grid = dataclasses.replace(GRID, seeds=(0, 1, 2, 3))
    shared = {"teacher": figures(90.2), "real": figures(95.0), "notes": []}
    shared["teacher"]["figures"][0]["error"] = 0.5
    run_stage(JUDGED, {}, here / SHARED, lambda _: shared, inputs={}, seed=0)
    new = here / CELLS / Cell(4, "renoise", 0.1, 0.02, 3).name
    run_stage(JUDGED, {}, new, lambda _: {"student": figures(81.0)}, inputs={}, seed=0)

    brought = brought_by([str(table)], cells(grid), here, asked)
    row = next(row for row in rows_of(grid, here, brought) if row.arm == "renoise")
    assert row.values["whole"] == value_of([70.0, 74.0, 75.0, 81.0])
    broke = Cell(4, "share", 0.1, 0.02, 1)
    assert [row.broken for row in rows_of(grid, here, brought) if row.arm == "share"] == [1]
    told = summary(grid, here, "flashjax ablate", brought, asked)
    assert told["cells"]["broken"] == {broke.name: "10 updates were skipped"}
    assert told["cells"]["done"] == 6 and told["results"].keys() == {*brought, new.name}
    assert all(told["results"][cell.name]["asked"] == asked(cell) for cell in cells(grid)[:2])

    left = left_of(grid, cells(grid), here, brought)
    names = {cell.name for cell in left}
    assert "4-guided" in names  # its folder is not here, and cells here go on from it
    assert Cell(4, "renoise", 0.1, 0.02, 1).name in names  # as a split of its seed does
    assert broke.name not in names
    whole = dict.fromkeys(cell.name for cell in cells(grid))
    assert left_of(grid, cells(grid), here, whole) == []

    changed = lambda cell: asked(cell) + (" of old" if cell.seed == 1 else "")
    with pytest.raises(InputError, match=r"4-renoise-t0.1-p0.02-s1, .* came of another config"):
        brought_by([str(table)], cells(grid), here, changed)

    shared["teacher"]["figures"][0]["value"] = 91.0
    other = tmp_path_factory.mktemp("third")
    run_stage(JUDGED, {}, other / SHARED, lambda _: shared, inputs={}, seed=0)
    with pytest.raises(InputError, match=r"its teacher has whole 90.0, this one whole 91.0"):
        brought_by([str(table)], cells(grid), other, asked)
    with pytest.raises(InputError, match=r"--others .*no.json: there is no such file"):
        brought_by([str(here / "no.json")], cells(grid), here, asked)
    write_json(table, {"teacher": {"figures": []}, "results": {}})
    with pytest.raises(InputError, match=r"--others .*ablation.json: no ablation.json"):
        brought_by([str(table)], cells(grid), here, asked)


def test_a_cell_that_is_neither_done_nor_broken_is_left(workdir):
    assert state_of(Cell(4, "share", 0.1, 0.02, 0), workdir) == ""
    assert state_of(Cell(4, "share", 0.1, 0.02, 1), workdir) == "broken"
    assert state_of(Cell(4), workdir) == "done"
