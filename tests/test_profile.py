"""`--profile` is a flag of the verbs that train, checked before anything is begun."""

from pathlib import Path

import pytest

from flashjax.cli import main
from flashjax.tools.front import parser
from flashjax.tools.verbs import JOBS

CONFIG = str(Path(__file__).parents[1] / "configs" / "nano_tiny.py")


def test_a_span_that_is_none_is_refused_in_one_line(tmp_path, capsys):
    words = ["guide", "--config", CONFIG, "--workdir", str(tmp_path / "run"), "--profile", "4:3"]
    words += ["--config.simulate_devices=1"]  # JAX has its devices already
    assert main(words) == 2
    assert "profile=4:3: give the first and the last step" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["run", "guide", "prepare"])
def test_only_verbs_that_train_have_it(verb):
    assert ("--profile" in parser(verb, configured=True).format_help()) == (verb in JOBS)
