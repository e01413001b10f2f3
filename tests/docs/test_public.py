"""What is public is documented, and the examples need nothing else; they run."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flashjax
from flashjax import config
from flashjax.tools import sections

ROOT = Path(__file__).parents[2]
ROOMS = ("convert", "data", "evaluate", "flow", "losses", "models", "quantize", "train")
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
ALWAYS = {"flashjax", "flashjax.types", "flashjax.cli.main"}
ERRORS = re.compile(r"raise (InputError|FloatingPointError)")


def modules():
    """Every public module."""
    for room in ROOMS:
        name = f"flashjax.{room}"
        yield from (f"{name}.{inside}" for inside in importlib.import_module(name).__all__)


def members(module):
    """Name and object of every public function, class, method and property of a module."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield name, value
            for inner, part in vars(value).items():
                made = isinstance(part, property) or inspect.isfunction(part)
                if made and not inner.startswith("_") and part.__doc__ is not None:
                    yield f"{name}.{inner}", part
                elif made and not inner.startswith("_") and not is_plain(part, value):
                    yield f"{name}.{inner}", part


def is_plain(part, owner):
    """A property in one line, or what a seam's class only lists: its class says what it is."""
    function = part.fget if isinstance(part, property) else part
    lines = inspect.getsource(function).strip().splitlines()
    return len(lines) <= 3 or getattr(owner, "_is_protocol", False) or owner.__name__[0] == "_"


SYMBOLS = [
    pytest.param(module, name, id=f"{module}.{name}")
    for module in [*modules(), "flashjax.types", "flashjax.tools.model", "flashjax.cli"]
    for name, value in members(importlib.import_module(module))
    if module != "flashjax.cli" or name == "main"
]


def of(module, name):
    found = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    return found.fget if isinstance(found, property) else getattr(found, "__func__", found)


@pytest.mark.parametrize(("module", "name"), SYMBOLS)
def test_every_public_symbol_says_shapes_units_and_errors(module, name):
    """Shapes stand in quotes, of the symbol or of its module, whose letters they are in."""
    value, room = of(module, name), importlib.import_module(module)
    told = inspect.getdoc(value) or ""
    assert (told and told[0].isupper()) or told.startswith("`"), "no docstring"
    if not inspect.isfunction(value):
        return
    hints = " ".join(str(hint) for hint in value.__annotations__.values())
    if re.search(r"\bArray\b|ndarray", hints):
        said = f"{told}\n{room.__doc__}"
        assert re.search(r'"[a-zA-Z0-9+ .…s]+"|Letters|scalar', said), "no shapes"
    for error in set(ERRORS.findall(inspect.getsource(value))):
        assert error in told, f"raises {error} and does not say so"


def imported(path):
    """Every name of the package that a file imports, dotted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("flashjax"))
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("flashjax"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_import_public_things_alone(path):
    public = {*modules(), *ALWAYS}
    names = list(imported(path))
    assert names
    for name in names:
        module, _, last = name.rpartition(".")
        assert not last.startswith("_")
        assert name in public or module in public, f"{name} is not public"


def run(name, *arguments):
    """What an example prints last, in a process of its own, on one device."""
    path = str(ROOT / "docs" / "examples" / f"{name}.py")
    told = subprocess.run(
        [sys.executable, path, *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.strip().splitlines()[-1]


def test_a_student_of_an_own_loss_finds_its_teacher(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    assert importlib.import_module("own_loss").train() == pytest.approx(2.0, abs=0.2)


def test_a_recipe_with_an_own_loss_is_taken_and_a_lost_one_is_refused(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    recipe = ROOT / "docs" / "examples" / "own_loss.py"
    assert not sections.problems(config.load(recipe), "match")
    lost = config.load(recipe, ["match.match.gradient=own_loss:nothing"])
    (error,) = sections.problems(lost, "match")
    assert "own_loss:nothing: module 'own_loss' has no attribute" in str(error)


def test_an_own_data_set_is_cached_and_an_own_judge_measures(tmp_path):
    report = Path(run("own_data", tmp_path))
    assert report == tmp_path / "compared" / "report.html" and "ground" in report.read_text()
    record = json.loads((tmp_path / "run" / "prepare" / "stage.json").read_text())
    assert record["results"]["train"] == 48 and record["section"]["source"] == "own_data:discs"


def test_an_own_teacher_is_imported_guided_and_drawn_with(tmp_path):
    with Image.open(run("own_teacher", tmp_path)) as picture:
        assert np.asarray(picture).std() > 1
    teacher = flashjax.load(tmp_path / "teacher").pipeline.transformer_config
    assert (teacher.depth, teacher.width) == (2, 128)
