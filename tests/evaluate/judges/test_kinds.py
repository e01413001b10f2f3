"""Judges by name: each says what it needs, and without it names itself and that."""

from pathlib import Path

import numpy as np
import pytest

from flashjax.evaluate.judge import Compared
from flashjax.evaluate.judges import KINDS
from flashjax.types import InputError


@pytest.mark.parametrize("name", KINDS)
def test_a_judge_without_weights_says_what_it_needs_in_one_line(name, tmp_path):
    real = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(InputError) as refused:
        KINDS[name].open(tmp_path / "nothing here", Compared(real))
    message = str(refused.value)
    assert message.startswith(f"the judge {name} needs {KINDS[name].needs.weights}; ")
    assert "nothing here" in message and "\n" not in message


def test_none_needs_real_pictures_where_a_teachers_are_there_and_a_distance_needs_two():
    assert not any(kind.needs.real for kind in KINDS.values())
    assert KINDS["fid"].needs.least == 2
    with pytest.raises(InputError, match="the judge fid has nothing to compare with"):
        KINDS["fid"].open(Path("weights"), Compared())
