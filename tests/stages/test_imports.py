"""What somebody's own code imports of its own is found by reading; others' packages are not."""

import sys

import pytest

from flashjax.stages.imports import sources


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "import own.deep.maths",
        "from own.deep import maths",
        "from own.deep.maths import square",
        "from .deep import maths",
        "from . import deep",
        "def later():\n    from own import deep",
    ],
)
def test_every_kind_of_import_leads_to_the_file(text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write(
        tmp_path,
        {
            "own/__init__.py": "",
            "own/arms.py": f"{text}\nimport numpy, flashjax.types\n",
            "own/deep/__init__.py": "from . import maths",
            "own/deep/maths.py": "from .. import unasked_for_and_absent\nimport beside",
            "own/other.py": "",
            "beside.py": "import own.arms",
        },
    )
    found = sources("own.arms")
    asked = {"own", "own.arms", "own.deep", "own.deep.maths", "beside"}
    assert found.keys() == asked
    assert found["own.deep.maths"] == tmp_path / "own" / "deep" / "maths.py"
    sys.modules.pop("own", None)


def test_where_others_have_their_packages_only_the_package_itself_is_read():
    found = sources("ml_collections.config_dict.config_dict")
    assert {name.partition(".")[0] for name in found} == {"ml_collections"} and len(found) > 1


@pytest.mark.parametrize("folder", ["dist-packages", "target"])
def test_a_users_packages_and_those_of_a_target_are_everybodys_too(folder, tmp_path, monkeypatch):
    root = tmp_path / folder
    monkeypatch.syspath_prepend(root)
    top = f"ours_{folder.partition('-')[0]}"
    write(root, {f"{top}/__init__.py": "import beside_it", "beside_it.py": ""})
    write(root, {"jax/__init__.py": ""} if folder == "target" else {})
    assert list(sources(top)) == [top]


def test_what_cannot_be_read_is_left_to_whoever_runs_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, {"broken_arms.py": "import other_arms\n(", "other_arms.py": ""})
    assert list(sources("broken_arms")) == ["broken_arms"]
    assert sources("sys") == {}
