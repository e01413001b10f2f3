"""A figure has three digits and the unit that fits."""

import pytest

from flashjax.parallel.units import counted, sized


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "0 FLOP"),
        (12, "12 FLOP"),
        (999, "999 FLOP"),
        (999.6, "1.00 kFLOP"),
        (2.314e9, "2.31 GFLOP"),
        (9.996e9, "10.0 GFLOP"),
        (0.0044e12, "4.40 GFLOP"),
        (989e12, "989 TFLOP"),
        (1.3e15, "1.30 PFLOP"),
        (0.5, "0.50 FLOP"),
    ],
)
def test_operations(number, told):
    assert counted(number, "FLOP") == told


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (512, "512 B"),
        (1000, "0.98 KiB"),
        (2**20, "1.00 MiB"),
        (80e9, "74.5 GiB"),
        (95 * 2**30, "95.0 GiB"),
        (3 * 2**40, "3.00 TiB"),
        (2**63, "8192 PiB"),
    ],
)
def test_bytes(number, told):
    assert sized(number) == told
