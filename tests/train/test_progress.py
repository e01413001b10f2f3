"""What a terminal or a log shows of a job: what the curves have."""

import itertools
import logging

import jax
import jax.numpy as jnp

from flashjax.train.loop import loop
from flashjax.train.metrics import MetricsHook
from flashjax.train.progress import in_words, progress


@jax.jit
def _add(state, batch):
    return state + batch, {"student/loss": state}


def test_progress_logs_lines_where_there_is_no_terminal(caplog):
    with (
        caplog.at_level(logging.INFO),
        progress("match", start=0, stop=3, log_seconds=1e3) as shown,
    ):
        hooks = [shown, MetricsHook(shown, steps=3, stop=3)]
        loop(_add, jnp.int32(0), itertools.repeat(3), start=0, stop=3, hooks=hooks)
    (line,) = caplog.messages
    assert "match 3/3" in line and "s/step" in line and "student/loss 3" in line


def test_the_line_has_losses_rate_speed_and_memory():
    scalars = {
        "student/loss": 0.5,
        "student/grad_norm": 3.0,
        "student/learning_rate": 2e-4,
        "speed/samples_per_second": 120.0,
        "speed/flops_per_device": 3.1e10,
        "speed/mfu": 0.41,
        "memory/host_bytes": 3 * 2**30,
    }
    assert in_words(scalars) == (
        "  student/loss 0.5  student/learning_rate 0.0002  120 samples/s  31.0 GFLOP/s a device"
        "  MFU 41 %  host 3.00 GiB"
    )
