"""The table of chips, and how JAX calls them."""

import pytest

from flashjax.parallel.chips import CHIPS, chip_of
from flashjax.parallel.target import parse_target

WANTED = {"v4", "v5e", "v5p", "v6e", "tpu7x", "a100", "h100", "h200", "b200", "mi300x", "cpu"}


def test_every_chip_has_a_source_and_no_figure_is_left_out():
    assert set(CHIPS) == WANTED
    for chip in CHIPS.values():
        figures = (chip.flops, chip.hbm_bytes, chip.hbm_bandwidth, chip.ici_bandwidth)
        assert min(*figures, chip.dcn_bandwidth) > 0 and chip.source
        # Operations for each byte that is read: of every accelerator within one order.
        assert chip.name == "cpu" or 100 < chip.flops / chip.hbm_bandwidth < 700


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA B200", "b200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("cpu", "cpu"),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_device_is_found_by_the_name_that_jax_has_for_it(kind, name):
    found = chip_of(kind)
    assert (found.name if found else None) == name


def test_a_chip_of_two_devices_counts_as_two():
    assert parse_target("tpu7x:2x2x1").devices == 8
    assert parse_target("v4:2x2x1").devices == 4
