"""What is compiled is counted, and said where it takes long."""

import logging
import time

import jax
import jax.numpy as jnp

from flashjax.parallel import compiling


def test_a_program_that_compiles_long_is_named_while_it_does(caplog, monkeypatch):
    monkeypatch.setattr(compiling, "SAID_SECONDS", 0.0)

    @jax.jit
    def a_step_of_ours(x):
        for _ in range(20):
            x = jnp.sin(x) @ x
        return x

    before, started = compiling.COMPILING.seconds, time.monotonic()
    with caplog.at_level(logging.INFO):
        a_step_of_ours(jnp.ones((4, 4)))
    spent = time.monotonic() - started
    lines = [line for line in caplog.messages if "a_step_of_ours" in line]
    assert lines[0].endswith("a_step_of_ours) ...") or lines[0].endswith("a_step_of_ours ...")
    assert lines[1].startswith("compiled") and lines[1].endswith(" s")
    assert 0 < compiling.COMPILING.seconds - before <= spent


def test_what_is_compiled_within_a_compilation_counts_once(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0])
    monkeypatch.setattr(compiling.time, "monotonic", lambda: next(clock))
    heard = compiling.Compiling()
    heard.began(compiling.TRACE, 0.0, fun_name="outer")
    heard.began(compiling.TRACE, 0.0, fun_name="inner")
    heard.ended(compiling.TRACE, 2.0, fun_name="inner")
    heard.ended(compiling.TRACE, 10.0, fun_name="outer")
    heard.ended(compiling.TRACE, 5.0, fun_name="one that began before we listened")
    assert heard.seconds == 10.0
