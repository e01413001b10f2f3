"""No verb writes over, or takes away, what somebody else has put where its results go."""

import pytest

from flashjax.cli import main
from flashjax.tools.export import FORMATS
from flashjax.tools.plan import command as plan
from flashjax.tools.quantize.command import NAMES, REPORT, file_name, table_of

MINE = "a user's"
QUANTIZED = {("quantize", name): file_name(name) for name in NAMES}
EXPORTED = {("export", name): place for name, place in FORMATS.items()}
PLACES = QUANTIZED | EXPORTED


def run(*arguments):
    return main([str(argument) for argument in arguments])


def put(path, *, inside):
    """A file of somebody else, or a folder of theirs in its place."""
    file = path / "deep" / "mine.txt" if inside else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MINE)
    return file


def told_of(file):
    """Which file it is and when it was last written; when it was read is nobody's concern."""
    told = file.stat()
    return told.st_ino, told.st_mode, told.st_size, told.st_mtime_ns


@pytest.mark.parametrize("kind", ["a file", "a folder", "a folder, --force"])
@pytest.mark.parametrize("verb", PLACES, ids="-".join)
def test_a_place_that_is_taken_is_refused_before_a_weight_is_read(
    verb, kind, tiny_teacher, tmp_path, capsys
):
    file = put(tmp_path / PLACES[verb], inside=kind != "a file")
    before = told_of(file)
    force = ["--force"] if "--force" in kind else []
    flags = ("--source", tiny_teacher, "--format", verb[1], "--out", tmp_path, *force)
    more = {"gguf-q6_k-calibrated", "gguf-mixed", "gguf-q6_k-tuned"} & {verb[1]}
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n" * 9)
    extra = ["--calibrate", prompts] if more else []
    extra += ["--size_mb", 9] if verb[1] == "gguf-mixed" else []
    extra += ["--tune", 1] if verb[1] == "gguf-q6_k-tuned" else []
    assert run(verb[0], *flags, *extra) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "choose another --out" in line or "flashjax did not write" in line
    assert file.read_text() == MINE and told_of(file) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"prompts.txt", PLACES[verb].split("/")[0]}
    )


@pytest.mark.parametrize("name", [REPORT, table_of])
def test_tables_and_pages_are_results_too(name, tiny_teacher, tmp_path, capsys):
    path = tmp_path / REPORT if name is REPORT else table_of(tmp_path / file_name("gguf-q8_0"))
    file = put(path, inside=False)
    flags = ("--source", tiny_teacher, "--format", "gguf-q8_0", "--out", tmp_path, "--report")
    assert run("quantize", *flags) == 2
    assert path.name in capsys.readouterr().err and file.read_text() == MINE


def test_pictures_and_pages_that_are_there_stay(tiny_teacher, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("one red\n")
    for name in ("0000.png", "grid.png", "report.html"):
        put(tmp_path / name, inside=False)
    assert run("sample", "--source", tiny_teacher, "--prompt", "one", "--out", tmp_path) == 2
    compared = ("--source", tiny_teacher, "--prompts", tmp_path / "p.txt", "--out", tmp_path)
    assert run("evaluate", *compared) == 2
    assert capsys.readouterr().err.count("flashjax did not write it") == 2
    for name in ("0000.png", "grid.png", "report.html"):
        assert (tmp_path / name).read_text() == MINE


def test_texts_of_a_plan_stay(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "simulate_devices", lambda number: None)
    file = put(tmp_path / "guide.hlo", inside=False)
    flags = ("--target", "cpu:8", "--programs", "guide", "--hlo", tmp_path, "--cache", tmp_path)
    config = ("--config", "configs/nano.py", "--config.mesh.data=8")
    assert run("plan", *config, *flags) == 2
    assert "guide.hlo is there" in capsys.readouterr().err and file.read_text() == MINE


@pytest.mark.parametrize("verb", ["import", "guide", "export", "quantize", "report"])
def test_a_folder_with_a_stages_name_stays(verb, tmp_path, capsys):
    file = put(tmp_path / verb / "params", inside=True)
    place = ("--config", "configs/nano.py", "--config.simulate_devices=1", "--workdir", tmp_path)
    assert run(verb, *place) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and file.read_text() == MINE
