"""The house's rules: imports go down only, libraries stay on their floor, nothing gets large."""

import ast
import re
from pathlib import Path

import pytest

import flashjax
from flashjax import tasks

ROOT = Path(flashjax.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
FLOORS = (
    "types trees checksums config parallel data models flow losses train checkpoint convert "
    "quantize evaluate tasks sources stages tools cli __main__"
).split()
# Libraries that only some floors may import; no floor for the oracles of the tests.
HOMES = {
    "flax.linen": {"models", "tasks"},
    "ml_collections": {"config", "stages", "tools", "cli"},
    "torch": set(),
    "diffusers": set(),
    "gguf": set(),
    "pickle": set(),
}
MAX_LINES, MAX_FUNCTION_LINES = 400, 60


def name_of(path):
    return str(path.relative_to(ROOT))


def floor_of(path):
    """The floor of a file of the package; None for the package itself."""
    floor = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return None if floor == "__init__" else floor


def imported(tree):
    """Every dotted name that the module imports, at its top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, library):
    return name == library or name.startswith(f"{library}.")


def rising(floor, names):
    """The names that `floor` may not import: they lie above it."""
    for name in names:
        if name.startswith("flashjax.") and FLOORS.index(name.split(".")[1]) > FLOORS.index(floor):
            yield name


def astray(floor, names):
    """The names of libraries that have no home on `floor`."""
    for name in names:
        if any(within(name, library) and floor not in HOMES[library] for library in HOMES):
            yield name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_and_libraries_stay_at_home(path):
    floor = floor_of(path)
    names = list(imported(ast.parse(path.read_text())))
    assert floor in FLOORS or not names
    assert not list(rising(floor, names)) and not list(astray(floor, names))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    }
    assert not long


def test_a_task_is_a_guest_that_enters_by_one_door():
    """No file outside tasks/ names a task, and one alone imports from that room."""
    doors, named = set(), set()
    for path in MODULES:
        if floor_of(path) != "tasks":
            text = path.read_text()
            if any(within(name, "flashjax.tasks") for name in imported(ast.parse(text))):
                doors.add(name_of(path))
            named |= {name_of(path) for task in tasks.NAMES if task in text}
    assert doors == {"stages/registry.py"} and not named


def test_networks_are_traced_through_the_one_door_where_threads_take_turns():
    """models/layers.py `apply` and `init`."""
    around = re.compile(r"\.apply\(\s*\{|\.init\b[^\n]*\[\"params\"\]")
    found = {name_of(path) for path in MODULES if around.search(path.read_text())}
    assert found == {"models/layers.py"}


def test_the_rules_see_what_they_forbid():
    code = "import flax.linen as nn\nfrom flax import linen\ndef f():\n    import torch.nn\n"
    code += "from flashjax.train import match\nfrom flashjax import stages\nimport jax\n"
    names = list(imported(ast.parse(code)))
    assert list(rising("losses", names)) == ["flashjax.train.match", "flashjax.stages"]
    assert list(astray("losses", names)) == ["flax.linen", "flax.linen", "torch.nn"]
    assert list(astray("models", names)) == ["torch.nn"]
    assert not list(rising("cli", names))
