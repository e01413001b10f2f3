"""The loop asks no device for anything: its metrics come to the host on their own."""

import jax
import jax.numpy as jnp
import numpy as np

from flashjax.train.goodput import Drawn, Goodput
from flashjax.train.loop import loop
from flashjax.train.metrics import MetricsHook, make_writer
from flashjax.train.progress import progress
from flashjax.train.speed import Rate, Speedometer, Work


@jax.jit
def _step(state, batch):
    return state + batch, {"student/loss": state, "student/skipped": state * 0}


def test_no_implicit_transfer_happens_in_a_loop_with_all_its_figures(tmp_path):
    goodput = Goodput()
    work = Work(samples=2, flops=1e6, rates={"student": Rate(lambda count: 0.5)})
    meter = Speedometer(work, goodput)
    writer = make_writer(tmp_path)
    batches = iter([jax.device_put(np.float32(1.0))] * 6)
    state = jnp.zeros(())
    with progress("toy", start=0, stop=6) as shown, jax.transfer_guard("disallow"):
        hook = MetricsHook(writer, steps=2, stop=6, more=meter)
        end = loop(_step, state, Drawn(batches, goodput), start=0, stop=6, hooks=[shown, hook])
    writer.close()
    assert float(end) == 6.0 and len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
