"""What is public is documented, and the examples need nothing else; they run."""

import ast
import importlib
import json
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
SHAPES = re.compile(r'"[a-zA-Z0-9+ .…]+"|Letters|scalar')


def modules():
    """Every public module, as the `__all__` of its room has it."""
    for room in ROOMS:
        tree = ast.parse((ROOT / "flashjax" / room / "__init__.py").read_text())
        (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
        yield from (f"flashjax.{room}.{name}" for name in ast.literal_eval(listed))


def symbols(node, name=""):
    """Every public class, function, method and property, dotted; flax's own hooks are none."""
    for part in node.body:
        if isinstance(part, ast.ClassDef | ast.FunctionDef):
            if not part.name.startswith("_") and part.name != "setup":
                yield f"{name}{part.name}", part
                if isinstance(part, ast.ClassDef):
                    yield from symbols(part, f"{name}{part.name}.")


def faults(source):
    """What docstrings do not say. Shapes are in quotes, or in letters that the module explains."""
    tree = ast.parse(source)
    for name, node in symbols(tree):
        told = ast.get_docstring(node)
        if not told:
            yield f"{name} has no docstring"
            continue
        if isinstance(node, ast.ClassDef):
            continue
        hints = [a.annotation for a in [*node.args.args, *node.args.kwonlyargs]] + [node.returns]
        kinds = " ".join(ast.unparse(hint) for hint in hints if hint)
        if re.search(r"\bArray\b|ndarray", kinds):
            if not SHAPES.search(f"{told} {ast.get_docstring(tree)}"):
                yield f"{name} says no shapes"
        for error in set(ERRORS.findall(ast.get_source_segment(source, node))):
            if error not in told:
                yield f"{name} raises {error} and does not say so"


@pytest.mark.parametrize("module", [*modules(), "flashjax.types", "flashjax.tools.model"])
def test_every_public_symbol_says_shapes_and_errors(module):
    path = ROOT / (module.replace(".", "/") + ".py")
    assert not list(faults(path.read_text()))


def test_the_page_has_every_public_module():
    page = (ROOT / "docs" / "api.md").read_text()
    assert set(re.findall(r"^::: (flashjax\.[a-z]+\.[a-z0-9_]+)$", page, re.MULTILINE)) == set(
        modules()
    )


def test_what_says_too_little_is_found():
    code = "def f(x: Array):\n    '''Moves it.'''\n    raise InputError\ndef g(): pass\n"
    assert list(faults(code)) == [
        "f says no shapes",
        "f raises InputError and does not say so",
        "g has no docstring",
    ]


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


def run(undivided, name, *arguments):
    """What an example prints last, in a process of its own, on one device."""
    path = str(ROOT / "docs" / "examples" / f"{name}.py")
    told = subprocess.run(
        [sys.executable, path, *map(str, arguments)],
        env=undivided | {"PYTHONPATH": str(ROOT)},
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


def test_an_own_data_set_is_cached_and_an_own_judge_measures(undivided, tmp_path):
    report = Path(run(undivided, "own_data", tmp_path))
    assert report == tmp_path / "compared" / "report.html" and "ground" in report.read_text()
    record = json.loads((tmp_path / "run" / "prepare" / "stage.json").read_text())
    assert record["results"]["train"] == 48 and record["section"]["source"] == "own_data:discs"


def test_an_own_teacher_is_imported_guided_and_drawn_with(undivided, tmp_path):
    with Image.open(run(undivided, "own_teacher", tmp_path)) as picture:
        assert np.asarray(picture).std() > 1
    teacher = flashjax.load(tmp_path / "teacher").pipeline.transformer_config
    assert (teacher.depth, teacher.width) == (2, 128)
