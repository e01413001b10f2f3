"""Judges by name: each says what it needs, and without it names itself and that."""

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


def test_only_inception_cannot_do_without_pictures():
    assert [name for name, kind in KINDS.items() if kind.needs.real] == ["fid"]
