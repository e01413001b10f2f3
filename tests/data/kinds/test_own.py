"""Data of somebody's own code: named by its path, and looked at sample by sample."""

import pytest

from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.samples import Sample
from flashjax.types import InputError

MODULE = """
import numpy as np

class Given:
    name, digest = "given", "1"
    def __init__(self, image=None, caption="a", size=None, count=2):
        self.image, self.caption, self.told, self.count = image, caption, size, count
    def __len__(self): return self.count
    def __getitem__(self, index): return self.image, self.caption
    def size(self, index): return self.told

PICTURE = np.zeros((4, 6, 3), np.uint8)
whole = lambda: Given(PICTURE, size=(4, 6))
captions = lambda: Given()
empty = lambda: Given(count=0)
floats = lambda: Given(PICTURE / 255, size=(4, 6))
turned = lambda: Given(PICTURE, size=(6, 4))
unsized = lambda: Given(PICTURE)
textless = lambda: Given(caption=3)
nothing = lambda: [1]
number = 7
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "someones_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_what_a_function_gives_are_the_samples():
    found = open_kind("someones_data:whole", Wording())
    assert (found.name, found.digest, len(found), found.size(1)) == ("given", "1", 2, (4, 6))
    assert found[1].caption == "a" and found[1].image.shape == (4, 6, 3)
    assert open_kind("someones_data:captions", Wording())[0] == Sample(None, "a")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "has no attribute 'absent'; give package.module:name"),
        ("number", "is 7: give a function"),
        ("nothing", "gives a list without name, digest, size: give flashjax.data.samples.Samples"),
        ("empty", "gives no sample"),
        ("floats", "sample 0 is an array float64 (4, 6, 3), size (4, 6): give uint8 H W 3"),
        ("turned", "sample 0 is (4, 6) pixels, and its size says (6, 4)"),
        ("unsized", "sample 0 is an array uint8 (4, 6, 3), size None"),
        ("textless", "sample 0: its caption is 3, no text"),
    ],
)
def test_what_is_wrong_with_them_is_one_line(name, message):
    with pytest.raises(InputError) as error:
        open_kind(f"someones_data:{name}", Wording())[0]
    assert message in str(error.value) and "\n" not in str(error.value)


def test_code_of_nobody_is_an_unknown_kind_of_data():
    with pytest.raises(InputError, match=r"no_such_package:x does not exist: give .*module:name"):
        open_kind("no_such_package:x", Wording())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def make(:\n    pass\n", "line 1: SyntaxError"),
        ("\nraise KeyError('table')\n", "line 2: KeyError: 'table'"),
        ("def make():\n\n    return 1 / 0\n", "line 3: ZeroDivisionError"),
    ],
)
def test_a_mistake_in_somebodys_code_is_a_line_of_their_file(content, told, tmp_path, monkeypatch):
    name = f"mine_{told[5]}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    line = rf"{name}:make: .*{name}\.py, {told}.*; mend the code"
    with pytest.raises(InputError, match=line):
        open_kind(f"{name}:make", Wording())
