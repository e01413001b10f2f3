"""What pip installs, outside the repository: recipes, launchers, weights, and it draws."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flashjax import config as configs
from flashjax.train.trackers import TRACKERS

ROOT = Path(__file__).parents[1]
PARTS = ("flashjax", "configs", "launch", "pyproject.toml", "README.md", "LICENSE")
BUILD = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"


def run(*words, cwd, **more):
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is made of it: of a copy, for setuptools writes beside it."""
    copy, made = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("made")
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            junk = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, copy / name, symlinks=True, ignore=junk)
        else:
            shutil.copy(source, copy / name)
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, copy)
    run(sys.executable, "-c", BUILD.format("sdist", str(made)), cwd=copy)
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(made, filter="data")
    (unpacked,) = (path for path in made.iterdir() if path.is_dir())
    run(sys.executable, "-c", BUILD.format("wheel", str(made)), cwd=unpacked)
    (wheel,) = made.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """An environment with the wheel in it; what it depends on is read where it is."""
    place = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    pip = (sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", built[1], cwd=place)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return place / "bin" / "flashjax", environment


def pins(name):
    lines = (ROOT / f"requirements{name}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if "==" in line and not line.startswith("#")]
    return {pin.name: next(iter(pin.specifier)).version for pin in found}


def test_pins_lie_in_the_ranges_and_extras_are_the_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    pinned = pins("")
    assert ranges.keys() == pinned.keys()
    assert all(pinned[name] in ranges[name] for name in pinned)
    assert all({">=", "<"} == {part.operator for part in kept} for kept in ranges.values())
    extras = project["optional-dependencies"]
    for name, tools in (("plan", set()), ("deploy", set()), ("test", {"ruff", "mypy"})):
        asked = [Requirement(text) for text in extras[name] if not text.startswith("flashjax")]
        found = {r.name: next(iter(r.specifier)).version for r in asked}
        assert found == {n: v for n, v in pins(f"-{name}").items() if n not in tools}


def imported():
    """Packages that the code imports, by their names in Python, each with a file that does."""
    asking = ("import_module", "find_spec", "package")  # of what may be absent
    found = {}
    for path in sorted((ROOT / "flashjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                given = node.args if called in asking else []
                names = [word.value for word in given if isinstance(word, ast.Constant)]
            found |= {name.partition(".")[0]: path for name in names}
    found |= dict.fromkeys(TRACKERS, ROOT / "flashjax" / "train" / "trackers.py")
    ours = {"flashjax", *sys.stdlib_module_names}
    return {name: path for name, path in found.items() if name not in ours}


def test_every_package_that_is_imported_comes_with_the_package_or_with_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["optional-dependencies"] | {"": project["dependencies"]}
    known = {canonicalize_name(Requirement(text).name) for part in asked.values() for text in part}
    sold_as = importlib.metadata.packages_distributions() | {"mlflow": ["mlflow-skinny"]}
    known.add("absl-py")  # Orbax's own logger, which is quietened
    lost = {
        name: str(path)
        for name, path in imported().items()
        if not known & {canonicalize_name(sold) for sold in sold_as.get(name, [name])}
    }
    assert not lost
    extras = set(project["optional-dependencies"])
    told = (ROOT / "docs" / "install.md").read_text()
    lines = {"plan": "requirements-plan.txt", "deploy": "requirements-deploy.txt"}
    lines |= {"test": "make test", "docs": "make docs", "completion": "`completion` extra"}
    assert [name for name in extras if lines.get(name, f".[{name}]") not in told] == []


def test_wheel_and_sdist_hold_recipes_launchers_and_weights(built):
    with zipfile.ZipFile(built[1]) as wheel, tarfile.open(built[0]) as sdist:
        names = set(wheel.namelist())
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {f"flashjax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    wanted |= {f"flashjax/launch/{name}" for name in ("launch.py", "Dockerfile", "local.sh")}
    wanted |= {"flashjax/launch/launchers/job.py", "flashjax/py.typed", "flashjax/assets/deploy.md"}
    wanted |= {
        str(path.relative_to(ROOT))
        for path in (ROOT / "flashjax" / "assets").rglob("*")
        if path.is_file()
    }
    assert not wanted - names and not wanted - inside
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"flashjax"}


def test_what_is_installed_draws_and_launches_outside_the_repository(installed, tmp_path):
    program, environment = installed
    told = run(program, "launch", "local", "--config", "nano_tiny", "--workdir", "w", "--verbs",
               "run", "--dry_run", cwd=tmp_path, env=environment)  # fmt: skip
    assert told == "2 processes: flashjax run --config nano_tiny --workdir w\n"
    draw = ("sample", "--prompt", "green two above pink eight on brown", "--steps", "1")
    run(program, *draw, "--out", "pictures", cwd=tmp_path, env=environment)
    pictures = [*(tmp_path / "pictures").glob("*.png")]
    assert pictures and all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_recipes_are_found_by_name_and_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.load("nano_tiny").guide.job.steps == 8
    assert configs.load("sd35_medium_4step:512px").data.size == 512
    (tmp_path / "nano").write_text((ROOT / "configs" / "nano_1step.py").read_text())
    with pytest.raises(configs.InputError, match=r"nano\.py does not exist"):  # that it reads
        configs.load("nano")
