"""Layouts: which pairs are compared, and what is said of one that is too far."""

import json

import pytest

from flashjax.stages.run import ROAD
from flashjax.tools.chaos.layouts import HALF, LAYOUTS, layouts
from flashjax.types import InputError


class _Done:
    def codes(self, patience):
        return {0}


@pytest.fixture
def pairs(tmp_path):
    """`pairs(stages, far)`: what is told where one layout, restored, has another loss."""
    for name in ("data", *ROAD):
        (tmp_path / "made" / name).mkdir(parents=True)

    def told(stages, far=""):
        def start(workdir, words, processes):
            folder = workdir / words[0] / "metrics"
            folder.mkdir(parents=True)
            loss = 2.0 + 1e-5 * (workdir.name == f"fork-{far}")
            told = {"step": HALF + 1, "student/loss": loss, "time/step_seconds": processes}
            (folder / "metrics.jsonl").write_text(json.dumps(told) + "\n")
            return _Done()

        return layouts(tmp_path, tmp_path / "made", start, stages)

    return told


def test_every_layout_goes_on_on_every_other(pairs):
    found = pairs(list(ROAD))
    assert len(found) == sum(len(several) * (len(several) - 1) for several in LAYOUTS.values())
    assert found["guide: 1 -> 2x4"] == found["split: branches-2x4 -> branches-2"] == 0.0


def test_only_the_stages_that_are_asked_for_are_trained(pairs):
    assert {name.split(":")[0] for name in pairs(["match", "split"])} == {"split"}


def test_a_loss_that_is_too_far_is_told_with_both_layouts(pairs):
    with pytest.raises(InputError) as told:
        pairs(["guide"], far="4x2")
    assert "guide: 1 -> 4x2: 5e-06" in str(told.value) and "-> 2x4" not in str(told.value)
