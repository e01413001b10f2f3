"""`flashjax configs`: each recipe has a line, and a copy can be loaded where it is."""

import pytest

from flashjax import cli
from flashjax import config as configs


def test_every_recipe_has_a_line(capsys):
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*configs.recipes()]
    assert all(len(line.split()) > 3 and len(line) <= 130 for line in lines)


@pytest.mark.parametrize("name", ["nano_tiny", "sd35_medium_512_v6e_16"])
def test_a_copy_comes_with_what_it_reads_and_is_the_same_config(name, tmp_path):
    assert cli.main(["configs", "--copy", name, str(tmp_path / "mine")]) == 0
    copy = configs.load(tmp_path / "mine" / f"{name}.py")
    assert configs.to_dict(copy) == configs.to_dict(configs.load(name))


def test_nothing_is_written_over(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano.py").write_text("mine")
    assert cli.main(["configs", "--copy", "nano_tiny"]) == 2
    assert "nano.py is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["nano.py"]
    assert (tmp_path / "nano.py").read_text() == "mine"


def test_what_is_not_packaged_is_named_with_what_is(capsys):
    assert cli.main(["configs", "--copy", "nanno"]) == 2
    said = capsys.readouterr().err
    assert "--copy nanno is no packaged recipe: choose of ablation_nano, nano, nano_1step" in said
    assert cli.main(["run", "--config", "configs/nanno.py", "--workdir", "w"]) == 2
    assert "did you mean the packaged nano?" in capsys.readouterr().err
