"""Tables of pictures: where each of them goes."""

import argparse
from pathlib import Path

import pytest

from flashjax.tools.axes import NONE
from flashjax.tools.sheets import Sheet


@pytest.mark.parametrize(
    "labels",
    [
        [f"a/{rate}/student-of-the-final-run/export/diffusers" for rate in ("lr1", "lr3")],
        ["a b", "a+b", "a_b"],
        ["Teacher", "teacher"],  # one name on a disk that does not tell them apart
    ],
)
def test_pictures_of_sources_with_like_names_have_files_of_their_own(labels, tmp_path):
    cells = [argparse.Namespace(steps=1)]
    sheet = Sheet(tmp_path, ["one", "two"], dict.fromkeys(labels, ""), NONE, NONE, cells)
    names = [name.casefold() for name in sheet.paths]
    assert len(set(names)) == len(names) == 2 * len(labels) + 2


def test_names_that_are_apart_stay_as_they_are(tmp_path):
    cells = [argparse.Namespace(steps=1)]
    sheet = Sheet(Path("o"), ["one"], {"a/teacher": "", "a/student": ""}, NONE, NONE, cells)
    assert list(sheet.paths) == ["0000-a_teacher.png", "0000-a_student.png", "xy-0000.png"]
