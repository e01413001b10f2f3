"""Configs: overrides by type, errors that name the nearest key, sections as dataclasses."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest

from flashjax import config as configs
from flashjax.types import InputError

FILE = """
from ml_collections import ConfigDict, config_dict

def get_config():
    base = config_dict.FieldReference(4)
    return ConfigDict(dict(
        seed=1,
        match=dict(
            steps=100, learning_rate=1e-4, ema=None, limit=config_dict.placeholder(int),
            share=True, sigmas=(1.0, 0.5), names=["a", "b"], kind="share",
            optimiser=dict(beta=0.9),
        ),
        batch=base, eval_batch=base * 2, ranges=((0, 1), (2, 3)), extra=(),
    ))
"""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    beta: float
    clip: float | None = None


@dataclasses.dataclass(frozen=True)
class Match:
    steps: int
    learning_rate: float
    share: bool
    sigmas: tuple[float, ...]
    names: list[str]
    kind: Literal["share", "renoise"]
    optimiser: Optimiser
    ema: float | None = None
    limit: int | None = None


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "nano.py"
    path.write_text(FILE)
    return lambda *overrides: configs.load(path, overrides)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("steps=7", 7),
        ("learning_rate=3", 3.0),
        ("share=false", False),
        ("ema=0.99", 0.99),
        ("ema=None", None),
        ("limit=5", 5),
        ("limit=None", None),
        ("sigmas=(1,0.75, 0.5)", (1.0, 0.75, 0.5)),
        ("names=x,y", ["x", "y"]),
        ("names=('x', \"y,z\")", ["x", "y,z"]),
        ("names=['x']", ["x"]),
        ("names=(x, 'y')", ["x", "y"]),
        ("names='x'", ["x"]),
        ("names=8,1e-5", ["8", "1e-5"]),
        ("names=()", []),
        ("sigmas=-1e-5", (-1e-5,)),
        ("sigmas=(1e-5,-3,)", (1e-5, -3.0)),
        ("ema=-1e-5", -1e-5),
        ("ema=(1,2)", (1, 2)),
        ("ema=true", True),
        ("learning_rate=-1e-5", -1e-5),
        ("optimiser.beta=0.5", 0.5),
        ("kind=a=b", "a=b"),
    ],
)
def test_override_takes_the_type_of_the_key(load, override, value):
    got = load(f"match.{override}").match
    for key in override.partition("=")[0].split("."):
        got = got[key]
    assert got == value and type(got) is type(value)


def test_tuples_may_be_nested_or_empty(load):
    assert load("ranges=((1,2),[3,-4])").ranges == ((1, 2), (3, -4))
    assert load("extra=(1e-5,'a',None)").extra == (1e-5, "a", None)
    assert load("extra=()").extra == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("(a,b)", ["a", "b"]),
        ("[a (1),b]", ["a (1)", "b"]),
        ("clip=/data/clip (1)", ["clip=/data/clip (1)"]),
        ("x,clip [vit]", ["x", "clip [vit]"]),
        ("(1) a,b (2)", ["(1) a", "b (2)"]),
        ("()", []),
    ],
)
def test_brackets_of_a_name_stay_its_own(load, text, names):
    assert load(f"match.names={text}").match.names == names


def test_a_config_may_have_dataclasses_and_postponed_annotations(tmp_path):
    path = tmp_path / "own.py"
    more = "import dataclasses\n@dataclasses.dataclass\nclass Own:\n    x: int = 1\n"
    path.write_text(f"from __future__ import annotations\n{more}{FILE}")
    assert configs.load(str(path)).batch == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("match.setps=7", r"no key match\.setps; did you mean match\.steps\?"),
        ("mtach.steps=7", r"no key mtach; did you mean match\?"),
        ("match.steps=fast", r"match\.steps takes int, not 'fast'"),
        ("match.steps=1.5", r"match\.steps takes int"),
        ("match.steps=None", r"match\.steps takes int"),
        ("match.limit=x", r"match\.limit takes int"),
        ("match.share=maybe", r"match\.share takes bool"),
        ("match.sigmas=1,x", r"match\.sigmas takes float"),
        ("match.sigmas=(1,None)", r"match\.sigmas takes float, not None"),
        ("match.sigmas=()", r"match\.sigmas takes one value or more, not '\(\)'"),
        ("match.sigmas=", r"match\.sigmas takes one value or more"),
        ("ranges=(1,2)", r"ranges takes tuple, not 1"),
        ("ranges=((1,2.5),)", r"ranges takes int, not 2\.5"),
        ("match.optimizer.beta=1", r"no key match\.optimizer; did you mean match\.optimiser\?"),
        ("match.zzz=1", r"no key match\.zzz; choose of .*steps"),
        ("seed=-1", r"seed=-1: give a seed from 0 to 4294967295"),
        ("match.steps.x=1", r"match\.steps is a value, not a section"),
        ("match=1", "match is a section"),
        ("match.steps", "has no value"),
    ],
)
def test_wrong_override_is_named(load, override, message):
    with pytest.raises(InputError, match=message) as caught:
        load(override)
    assert "\n" not in str(caught.value)


def test_references_follow_an_override(load):
    assert load("batch=8").eval_batch == 16


def test_section_is_a_dataclass(load):
    got = configs.section(load("match.learning_rate=1"), "match", Match)
    assert got.learning_rate == 1.0 and got.sigmas == (1.0, 0.5) and got.names == ["a", "b"]
    assert got.optimiser == Optimiser(beta=0.9) and got.ema is None and got.limit is None
    assert configs.section(load(), "match.optimiser", Optimiser) == Optimiser(beta=0.9)


def _changed(load, **changes):
    config = load().copy_and_resolve_references().unlock()
    for key, value in changes.items():
        config.match[key] = value
    return config


def test_wrong_sections_are_named(load, tmp_path):
    def error(config, name="match"):
        with pytest.raises(InputError) as caught:
            configs.section(config, name, Match)
        return str(caught.value)

    assert "no key match.stepz; did you mean match.steps?" in error(_changed(load, stepz=1))
    assert "match.kind takes" in error(_changed(load, kind="shares"))
    assert "match.ema takes float | None, not 'x'" in error(_changed(load, ema="x"))
    assert "no key mach; did you mean match?" in error(load(), "mach")
    without = _changed(load)
    del without.match["steps"]
    assert "config lacks match.steps (int)" in error(without)
    assert "seed is a value, but Match needs a section" in error(load(), "seed")


def test_a_boolean_is_no_integer(load):
    @dataclasses.dataclass(frozen=True)
    class Flags:
        beta: int

    with pytest.raises(InputError, match=r"match\.optimiser\.beta takes int, not 0\.9"):
        configs.section(load(), "match.optimiser", Flags)
    with pytest.raises(InputError, match="takes int, not True"):
        config = load().unlock()
        config.match.optimiser = {"beta": True}
        configs.section(config, "match.optimiser", Flags)


def test_digest_is_of_the_content(load):
    assert configs.digest(load()) == configs.digest(load("match.steps=100"))
    assert configs.digest(load()) == configs.digest(json.loads(configs.to_json(load())))
    assert configs.digest(load()) != configs.digest(load("match.steps=101"))


def test_missing_or_empty_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.py does not exist"):
        configs.load(tmp_path / "absent.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match=r"empty\.py has no get_config"):
        configs.load(tmp_path / "empty.py")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\ndef get_config(:\n", r"broken\.py, line 2: SyntaxError: "),
        ("import nothing_of_this_name\n", r"line 1: ModuleNotFoundError: "),
        ("def get_config():\n    x = {}\n    return x['a']\n", r"line 3: KeyError: 'a'"),
        ("def get_config():\n    return 1 / 0\n", r"line 2: ZeroDivisionError: "),
        ("def get_config(size):\n    pass\n", "TypeError: "),
        ("def get_config():\n    return {}\n", "returns a dict, no ConfigDict"),
        ("\0", "broken.py, line 1: "),
        ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
        ("class Own(Exception): pass\nraise Own('mine')\n", "line 2: Own: mine"),
        ("def get_config():\n    return get_config()\n", "line 2: RecursionError: "),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    config = ConfigDict()\n"
            "    config.me = config\n    return config\n",
            "a section of its config holds itself",
        ),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_with_its_place(content, message, tmp_path):
    (tmp_path / "broken.py").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        configs.load(tmp_path / "broken.py")
    assert "\n" not in str(caught.value) and "broken.py" in str(caught.value)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "configs").glob("*.py")), ids=lambda path: path.stem
)
def test_every_packaged_config_loads(path):
    config = configs.load(path)
    assert config.seed is not None
    assert configs.digest(config)
