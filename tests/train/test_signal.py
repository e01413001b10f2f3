"""Signal and noise: estimates against a known law."""

import numpy as np
import pytest

from flashjax.train.signal import Drawn, collect, cosine, signal


@pytest.fixture(scope="module")
def known():
    """Gradients of a known law: mean 2 in one of 50 dims, inputs' variance 1, draws' 3 in each."""
    random = np.random.default_rng(0)
    inputs = 300
    offsets = random.normal(size=(inputs, 50))
    offsets[:, 0] += 2.0
    noise = np.sqrt(3.0) * random.normal(size=(inputs, 4, 50))
    return collect(lambda k, d: offsets[k] + noise[k, d], inputs, 4), offsets


def test_signal_and_noise_are_those_of_the_law(known):
    found = signal(known[0])
    for name, want in {"snr": 4 / 200, "snr_of_draws": 4 / 150, "noise_share": 0.75}.items():
        value, half = found[name]
        assert value == pytest.approx(want, rel=0.25) and abs(value - want) < 2 * half


def test_the_cosine_of_means_is_not_drowned_by_noise(known):
    """Two arms with the same inputs; the other's mean lies at 60 degrees."""
    drawn, offsets = known
    turn = np.zeros(50)
    turn[:2] = -1.0, np.sqrt(3.0)
    other = Drawn((offsets + turn).astype(np.float32), drawn.within, 4)
    value, half = cosine(drawn, other)
    assert value == pytest.approx(0.5, abs=0.1) and half < 0.2


def test_one_draw_has_no_variance():
    with pytest.raises(ValueError, match="need two of each"):
        collect(lambda k, d: np.zeros(2), 3, 1)


def test_two_inputs_have_values_but_no_interval():
    random = np.random.default_rng(1)
    drawn = collect(lambda k, d: 1.0 + 0.1 * random.normal(size=20), 2, 3)
    for value, half in signal(drawn).values():
        assert np.isfinite(value) and np.isnan(half)
