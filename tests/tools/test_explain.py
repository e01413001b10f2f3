"""`explain`: every key of every config, with what it means."""

from pathlib import Path

import pytest

from flashjax import config as configs
from flashjax.cli import main
from flashjax.stages.identity import leaves
from flashjax.tools.explain import keys

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def test_every_key_has_a_meaning():
    assert not [key.path for key in keys() if not key.meaning]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_key_of_every_config_is_explained(path):
    known = {key.path for key in keys()}
    free = (
        "split.branches.",
        "merge.weights.",
        "ablate.arms.",
        "ablate.splits.",
    )  # whose names the config chooses
    given = [key for key in leaves(configs.to_dict(configs.load(path))) if not key.startswith(free)]
    assert not set(given) - known


def test_a_key_is_told_with_its_range_and_default(capsys):
    assert main(["explain", "config.match.job.steps"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["match.job.steps  (int, 1 or more; must be given)", "    that it trains."]
    assert main(["explain", "guide.optimiser"]) == 0
    said = capsys.readouterr().out
    assert "guide.optimiser.beta2  (float, 0 or more, less than 1; 0.999 unless given)" in said
    assert "match." not in said


def test_a_key_that_is_not_there_is_answered_with_the_nearest(capsys):
    assert main(["explain", "match.mach"]) == 2
    assert "no config has a key match.mach; did you mean match.match?" in capsys.readouterr().err
