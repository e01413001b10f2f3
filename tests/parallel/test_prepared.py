"""A step that is compiled ahead: the same program, compiled once, its errors those of its call."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.parallel import compiling
from flashjax.parallel.compiling import COMPILING, Compiling
from flashjax.parallel.prepared import Prepared, under_way
from flashjax.types import InputError


def a_step_of_ours(state, frozen, batch, key):
    return state + frozen * batch.mean(), {"loss": jax.random.normal(key)}


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def ours(names):
    return [name for name in names if "a_step_of_ours" in name]


def test_a_program_is_made_of_shapes_once_and_gives_the_numbers_of_the_jitted_step(compiled):
    key, batch = jax.random.key(1), jnp.arange(4.0)
    step = jax.jit(a_step_of_ours, donate_argnums=0)
    want = step(jnp.ones(3), jnp.float32(2), batch, key)
    jax.clear_caches()  # of what is compiled here already
    compiled.clear()
    prepared = Prepared(jax.jit(a_step_of_ours, donate_argnums=0))
    prepared.prepare(shape(3), shape(), shape(4), key)
    state = jnp.ones(3)
    for _ in range(2):
        got = prepared(state, jnp.float32(2), batch, key)
        jax.tree.map(np.testing.assert_array_equal, got, want)
        assert state.is_deleted()  # its room is the next one's
        state = jnp.ones(3)
    assert len(ours(compiled)) == 1
    prepared(state, jnp.float32(2), jnp.arange(5.0), key)  # a bucket that nobody began
    assert len(ours(compiled)) == 2


def test_the_caller_goes_on_while_it_compiles():
    let, entered = threading.Event(), threading.Event()

    def slow(state, frozen, batch, key):
        entered.set()
        assert let.wait(60)
        return a_step_of_ours(state, frozen, batch, key)

    prepared = Prepared(jax.jit(slow))
    prepared.prepare(shape(3), shape(), shape(4), jax.random.key(0))
    assert entered.wait(60) and under_way()
    let.set()
    prepared(jnp.ones(3), jnp.float32(2), jnp.arange(4.0), jax.random.key(0))
    assert not under_way()


def test_what_a_trace_refuses_is_raised_by_the_call():
    def refused(state, frozen, batch, key):
        raise InputError("match.heads.taps=9: the model has 2 blocks")

    prepared = Prepared(jax.jit(refused))
    prepared.prepare(shape(3), shape(), shape(4), jax.random.key(0))
    with pytest.raises(InputError, match="taps=9"):
        prepared(jnp.ones(3), jnp.float32(2), jnp.arange(4.0), jax.random.key(0))
    assert not under_way()


def test_what_never_moves_is_given_once_and_a_program_may_be_refused():
    def step(state, span, frozen, batch, key):
        return a_step_of_ours(state, frozen * span, batch, key)

    seen = []
    arguments = jnp.ones(3), jnp.float32(2), jnp.arange(4.0), jax.random.key(0)
    got, _ = Prepared(jax.jit(step), jnp.float32(3), check=seen.append)(*arguments)
    np.testing.assert_allclose(got, 1 + 6 * 1.5)
    assert len(seen) == 1 and seen[0].startswith("HloModule")

    def refuse(text):
        raise RuntimeError("joins its branches")

    with pytest.raises(RuntimeError, match="joins its branches"):
        Prepared(jax.jit(step), jnp.float32(3), check=refuse)(*arguments)


def test_only_the_wait_for_a_program_counts_as_compilation(monkeypatch):
    """What a thread compiles while others work costs nobody anything."""
    heard = Compiling()
    thread = threading.Thread(target=_compiles_aside, args=(heard,))
    thread.start()
    thread.join()
    assert heard.seconds == 0
    with heard.waited():
        time.sleep(0.02)
    assert 0.02 <= heard.seconds < 10


def _compiles_aside(heard):
    with heard.aside():
        heard.began(compiling.COMPILE, 0.0, fun_name="step")
        time.sleep(0.02)
        heard.ended(compiling.COMPILE, 0.02, fun_name="step")


def test_the_call_counts_its_wait(caplog, monkeypatch):
    monkeypatch.setattr(compiling, "SAID_SECONDS", 0.0)

    def long_one(state, frozen, batch, key):
        for _ in range(20):
            state = jnp.sin(state) @ state
        return state, {}

    prepared = Prepared(jax.jit(long_one))
    with caplog.at_level(logging.INFO):
        prepared.prepare(shape(4, 4), shape(), shape(4), jax.random.key(0))
        before, started = COMPILING.seconds, time.monotonic()
        prepared(jnp.ones((4, 4)), jnp.float32(2), jnp.arange(4.0), jax.random.key(0))
    assert 0 < COMPILING.seconds - before <= time.monotonic() - started
    lines = [line for line in caplog.messages if "long_one" in line]
    assert lines[0].startswith("compiling") and lines[1].startswith("compiled")


SLOW = """
import hashlib, sys, threading
import numpy as np
from flashjax import cli
from flashjax.parallel.prepared import Prepared
from flashjax.train.loop import Interrupted
from flashjax.types import InputError

begun = threading.Event()

class Slow:
    def lower(self, *arguments):
        print("begun", flush=True)
        begun.set()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes, and no Python

def run(words):
    prepared = Prepared(Slow())
    prepared.prepare(0, 0, np.zeros(2), 0)
    begun.wait()
    {then}

cli.run = run
sys.exit(cli.main())
"""
ENDS = {
    "prepared(0, 0, np.zeros(2), 0)": (75, "SIGTERM: nothing is half written; run the same"),
    "raise InputError('the weights are damaged')": (2, "the weights are damaged"),
    "raise Interrupted(3)": (75, "interrupted after step 3; all is saved"),
}


@pytest.mark.parametrize("then", ENDS)
def test_a_process_does_not_wait_for_what_is_compiled_in_vain(then):
    """Whatever ends it, a signal too, its line is the only one, and its code its own."""
    job = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(then=then)],
        env=os.environ | {"PYTHONPATH": ":".join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert job.stdout.readline() == "begun\n"
        if then.startswith("prepared"):
            job.send_signal(signal.SIGTERM)
        _, said = job.communicate(timeout=60)
    finally:
        job.kill()
    code, line = ENDS[then]
    assert job.returncode == code, said
    assert len(said.splitlines()) == 1 and line in said
