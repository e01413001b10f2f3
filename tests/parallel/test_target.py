"""Machines by name, here or not."""

import pytest

from flashjax.parallel.chips import CHIPS
from flashjax.parallel.target import open_devices, parse_target
from flashjax.types import InputError


def test_a_target_is_a_chip_and_how_its_chips_are_arranged():
    target = parse_target("v5p:4x4x8", slices=2)
    assert target.devices == 256 and target.is_tpu and str(target) == "2 slices of v5p:4x4x8"
    assert parse_target("h100:64").devices == 64 and not parse_target("h100:64").is_tpu
    assert parse_target("h100:64").island == 8  # a host's NVLink
    assert parse_target("cpu:4", slices=2).island == 4 and target.island == 0


@pytest.mark.parametrize("text", ["v6e", "v6e:8by8", "v9:4x4", "cpu:", "v6e:8x8:2"])
def test_a_wrong_target_is_answered_with_the_table(text):
    with pytest.raises(InputError, match=r"v6e:8x8.*chips are v4, v5e, v5p, v6e, tpu7x"):
        parse_target(text)


def test_simulated_devices_stand_for_what_is_not_here():
    assert len(open_devices(parse_target("h100:8"))) == 8


def test_every_row_of_the_table_says_where_it_is_from():
    assert all(chip.source and chip.flops > 0 and chip.price >= 0 for chip in CHIPS.values())
