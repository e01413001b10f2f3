"""Figures of speed: of a step whose work, seconds and devices are known."""

import optax
import pytest

from flashjax.parallel import peak
from flashjax.train import goodput as goodputs
from flashjax.train.goodput import Goodput
from flashjax.train.optim import OptimiserConfig, rate_at, schedule
from flashjax.train.speed import Pace, Rate, Speedometer, Work, learning_rates, speed


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(goodputs, "time", clock)
    monkeypatch.setattr(goodputs._Accounted, "until", 90.0)
    return clock


def test_every_second_has_one_category_and_compilation_is_taken_out(clock, monkeypatch):
    account = Goodput()
    with account.during("step"):
        clock.now += 5
        with account.during("input"):
            clock.now += 2
        clock.now += 10
        monkeypatch.setattr(goodputs.COMPILING, "seconds", goodputs.COMPILING.seconds + 7)
    clock.now += 1
    found = account.seconds()
    assert found["start"] == 11 and found["input"] == 2 and found["compile"] == 7
    assert found["step"] == 8 and sum(found.values()) == clock.now - 90


def test_the_account_of_the_next_job_begins_where_this_one_ends(clock):
    Goodput().close()
    clock.now += 3
    assert Goodput().seconds()["start"] == 3


def test_utilisation_is_of_steps_and_their_input(clock, monkeypatch):
    monkeypatch.setattr("flashjax.train.speed.device_peak", lambda: 1e12)
    monkeypatch.setattr("flashjax.train.speed.jax.device_count", lambda: 2)
    account = Goodput()
    meter = Speedometer(Work(samples=8, flops=4e12), account)
    with account.during("step"):
        clock.now += 9
        with account.during("input"):
            clock.now += 1
        with account.during("checkpoint"):
            clock.now += 100
        found = meter(5, 5, {})
    assert found["speed/samples_per_second"] == 4.0  # 5 steps of 8 in 10 s
    assert found["time/step_seconds"] == 2.0  # of a step nothing is compiled, drawn or saved
    assert found["speed/flops_per_device"] == 1e12 and found["speed/mfu"] == 1.0
    assert found["goodput/checkpoint_seconds"] == 100 and found["memory/host_bytes"] > 2**20
    assert found["time/goodput"] == pytest.approx(9 / 120)


def test_what_nobody_has_counted_has_no_utilisation():
    assert speed(Work(samples=3), 2.0, None) == {"speed/samples_per_second": 6.0}
    assert "speed/mfu" not in speed(Work(3, 1.0), 2.0, None)


def test_a_skipped_update_leaves_the_rate_where_it_is():
    rates = {"fake": Rate(float, Pace(updates=2))}
    means = {"lo/fake/skipped": 3.0, "lo/heads/skipped": 0.0}
    assert learning_rates(rates, 10, means) == {"lo/fake/learning_rate": 16.0}


def test_a_rate_is_that_of_the_updates_made_where_the_critic_has_the_first_steps_for_itself():
    rates = {"fake": Rate(float, Pace(2, alone=4, more=1)), "student": Rate(float, Pace(1, 4, -1))}
    means = {"fake/skipped": 0.0, "student/skipped": 0.0}
    for step, fake, student in ((3, 9, 0), (4, 12, 0), (5, 14, 1), (10, 24, 6)):
        told = learning_rates(rates, step, means)
        assert told["fake/learning_rate"] == fake - 1
        assert told["student/learning_rate"] == max(0, student - 1)


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("decay", [0, 4])
def test_the_rate_on_the_host_is_the_optimisers(warmup, decay):
    config = OptimiserConfig(learning_rate=2e-3, warmup_steps=warmup, decay_steps=decay)
    ours: optax.Schedule = schedule(config, 10)
    for count in range(12):
        assert rate_at(config, 10, count) == pytest.approx(float(ours(count)), rel=1e-5)


def test_the_peak_of_a_cpu_is_measured_and_shared_by_its_devices(monkeypatch):
    peak.device_peak.cache_clear()
    monkeypatch.setattr(peak, "measured_peak", lambda: 8e9)
    monkeypatch.setattr(peak.jax, "local_device_count", lambda: 4)
    assert peak.device_peak() == 2e9
    peak.device_peak.cache_clear()
    monkeypatch.undo()
    assert 1e8 < peak.measured_peak() < 1e14
