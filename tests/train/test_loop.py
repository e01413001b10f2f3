"""The loop: step numbers, hooks, signals."""

import itertools
import signal

import jax
import jax.numpy as jnp
import pytest

from flashjax.parallel import signals
from flashjax.train.loop import Interrupted, every, loop, once
from flashjax.types import InputError


@jax.jit
def _add(state, batch):
    return state + batch, {"student/loss": state}


def test_every_step_sees_its_batch_and_its_number():
    seen = []
    end = loop(
        _add,
        jnp.int32(0),
        itertools.count(3),
        start=2,
        stop=5,
        hooks=[lambda step, state, metrics: seen.append((step, int(state)))],
    )
    assert seen == [(3, 3), (4, 7), (5, 12)] and int(end) == 12


def test_a_finished_run_takes_no_step_and_no_batch():
    batches = iter([1])
    assert loop(_add, jnp.int32(7), batches, start=4, stop=4) == 7
    assert next(batches) == 1


def test_every_adds_the_last_step():
    seen = []
    hook = every(4, lambda step, *_: seen.append(step), stop=10)
    for step in range(1, 11):
        hook(step, None, {})
    assert seen == [4, 8, 10]


def test_once_counts_the_steps_of_its_start():
    seen = []
    hook = once(2, lambda step, *_: seen.append(step))
    for step in (11, 12, 13):
        hook(step, None, {})
    assert seen == [12]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_step_saves_and_raises(number, tell_myself):
    before = signal.getsignal(number)
    saved = []

    def step(state, batch):
        if batch == 2:
            tell_myself(number)
        return _add(state, batch)

    with pytest.raises(Interrupted, match="after step 3") as caught:
        loop(
            step,
            jnp.int32(0),
            itertools.count(),
            start=0,
            stop=100,
            save=lambda step, state: saved.append((step, int(state))),
        )
    assert saved == [(3, 3)] and caught.value.step == 3
    assert signal.getsignal(number) is before


def test_data_that_ends_is_an_error():
    with pytest.raises(InputError, match="before step 3 of 9"):
        loop(_add, jnp.int32(0), iter([1, 1]), start=0, stop=9)


def test_a_signal_that_is_heard_late_ends_no_process_that_has_saved(tell_myself):
    """The thread that hears of signals may come to it when the loop is over."""
    for _ in range(50):
        with signals.deferred() as asked:
            tell_myself(signal.SIGTERM)
            assert asked()
