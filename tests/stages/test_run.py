"""`run`: the road, or a part of it."""

from pathlib import Path

from flashjax import cli
from flashjax.config import load
from flashjax.stages import run


def test_the_road_is_that_of_the_command_line():
    assert list(run.ROAD) == cli.ROAD


def test_a_part_of_the_road_is_run_in_its_order(monkeypatch, tmp_path):
    seen = []

    def stage(name):
        return type("", (), {"run": staticmethod(lambda *_: seen.append(name) or {"was": name})})

    monkeypatch.setattr(run, "ROAD", {name: stage(name) for name in run.ROAD})
    config = load(Path(__file__).parents[2] / "configs" / "nano.py")
    assert run.run(config, tmp_path, first="guide", last="split") == {"was": "split"}
    assert seen == ["guide", "match", "split"]
