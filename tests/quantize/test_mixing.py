"""Bits are spent where they lower the error of the output most."""

import pytest

from flashjax.quantize.codecs import Q6_K, Q8_0
from flashjax.quantize.mixing import choose_codecs
from flashjax.types import InputError

SIZES = {"a": 2560, "b": 2560, "c": 25600}
ERRORS = {"a": 1.0, "b": 3.0, "c": 4.0}
SIX_BIT = 30720 // 256 * 210
RAISE_A = 2560 // 32 * 34 - 2560 // 256 * 210  # bytes


def error_of(name, codec):
    return ERRORS[name] if codec is Q6_K else 0.01


def test_the_best_gain_for_its_bytes_comes_first() -> None:
    one = choose_codecs(SIZES, error_of, budget_bytes=SIX_BIT + RAISE_A)
    assert [name for name, codec in one.items() if codec is Q8_0] == ["b"]
    two = choose_codecs(SIZES, error_of, budget_bytes=SIX_BIT + 2 * RAISE_A)
    assert [name for name, codec in two.items() if codec is Q8_0] == ["a", "b"]
    every = choose_codecs(SIZES, error_of, budget_bytes=SIX_BIT + 12 * RAISE_A)
    assert set(every.values()) == {Q8_0}


def test_a_budget_below_six_bits_is_refused() -> None:
    with pytest.raises(InputError, match="six bits"):
        choose_codecs(SIZES, error_of, budget_bytes=SIX_BIT - 1)
