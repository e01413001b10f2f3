"""Averages: the share that an update keeps, and what stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.train.average import AverageConfig, averaged, decay_at
from flashjax.types import InputError


def weights(config, steps):
    """The weights of the start and of every update in the average after so many steps."""
    found = np.zeros(steps + 1)
    found[0] = 1.0
    for done in range(steps):
        kept = float(decay_at(config, jnp.int32(done)))
        found *= kept
        found[done + 1] += 1.0 - kept
    return found


def test_a_constant_decay_keeps_a_power_of_it_of_the_start():
    """As SD3.5-Flash anchors its branches: .99 over 400 steps keeps 1.8 % of the start."""
    assert weights(AverageConfig(decay=0.99), 400)[0] == pytest.approx(0.018, abs=5e-4)
    assert weights(AverageConfig(decay=0.999), 2000)[0] == pytest.approx(0.135, abs=5e-4)


@pytest.mark.parametrize("schedule", ["constant", "half_life"])
def test_with_a_warm_up_nothing_of_the_start_is_left(schedule):
    config = AverageConfig(schedule, decay=0.999, half_life=693.0, warmup=0.1)
    found = weights(config, 2000)
    assert found[0] == 0.0
    assert found[-1] == pytest.approx(1 - 0.5 ** (1 / 199.9), rel=1e-3)  # 10 % of 1999
    assert float(decay_at(config, jnp.int32(10**6))) == pytest.approx(0.999, abs=1e-5)


def test_half_of_an_average_is_older_than_its_half_life():
    found = weights(AverageConfig("half_life", half_life=50.0), 1000)
    assert found[-50:].sum() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("exponent", [6.94, 16.97])
def test_a_power_is_edm2s_profile(exponent):
    """Update n of N weighs as n ** exponent: a relative width of 0.10 and 0.05 (EDM2, eq. 124)."""
    found = weights(AverageConfig("power", exponent=exponent), 400)
    assert found[0] == 0.0
    n = np.arange(401) / 400
    mean = (found * n).sum()
    width = np.sqrt((found * (n - mean) ** 2).sum())
    assert width == pytest.approx({6.94: 0.10, 16.97: 0.05}[exponent], abs=0.003)


def test_what_never_moves_stays_bit_for_bit(key):
    table = jax.random.normal(key, (1000,))
    now = table
    for done in range(50):
        now = averaged(now, table, decay_at(AverageConfig(decay=0.999), jnp.int32(done)))
    np.testing.assert_array_equal(now, table)
    np.testing.assert_array_equal(averaged(table + 1, table, 0.0), table)


@pytest.mark.parametrize(
    "wrong",
    [{"decay": 1.0}, {"decay": -0.1}, {"half_life": 0.0}, {"exponent": 0.0}, {"warmup": -1.0}],
)
def test_an_average_out_of_range_is_refused(wrong):
    ((key, value),) = wrong.items()
    config = ConfigDict({"average": wrong})
    with pytest.raises(InputError, match=f"average.{key}={value}: give"):
        configs.section(config, "average", AverageConfig)
