"""A trace has the steps that were asked for, in the file that XProf reads."""

import jax
import jax.numpy as jnp
import pytest

from flashjax.train.trace import span_of, traced
from flashjax.types import InputError


@pytest.mark.parametrize("text", ["3", "5:4", "0:3", "a:b", "1:2:3"])
def test_what_is_no_span_of_steps_is_refused(text):
    with pytest.raises(InputError, match=f"profile={text}: give the first and the last step"):
        span_of(text)


def test_a_span_is_inclusive_and_nothing_is_none():
    assert span_of("10:13") == (10, 13) and span_of("") is None


@pytest.fixture
def asked(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


@pytest.mark.parametrize("start", [0, 2])
def test_these_steps_are_traced_and_no_others(asked, tmp_path, start):
    with traced(tmp_path, (3, 4), start=start) as hook:
        for step in range(start + 1, 7):
            asked.append(step)
            hook(step, None, {"loss": jnp.zeros(())})
    steps = [*range(start + 1, 3), "start", 3, 4, "stop", 5, 6]
    assert asked == steps


def test_a_job_that_goes_on_within_the_span_traces_what_is_left_of_it(asked, tmp_path):
    with traced(tmp_path, (3, 5), start=3) as hook:
        for step in (4, 5, 6):
            asked.append(step)
            hook(step, None, {"loss": jnp.zeros(())})
    assert asked == ["start", 4, 5, "stop", 6]


@pytest.mark.parametrize("start", [0, 8])
def test_a_span_that_a_start_does_not_train_is_said(asked, tmp_path, caplog, start):
    with traced(tmp_path, (7, 8), start=start) as hook:
        for step in range(start + 1, start + 4):
            hook(step, None, {"loss": jnp.zeros(())})
    assert not asked
    assert caplog.messages == ["no trace: none of the steps 7 to 8 was trained by this start"]


def test_a_job_that_ends_earlier_has_its_trace_all_the_same(asked, tmp_path):
    with traced(tmp_path, (1, 9), start=0) as hook:
        hook(1, None, {"loss": jnp.zeros(())})
    assert asked == ["start", "stop"]


def test_the_file_is_where_tensorboard_looks(tmp_path):
    with traced(tmp_path, (1, 1), start=0) as hook:
        hook(1, None, {"loss": jnp.ones(3).sum()})
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
