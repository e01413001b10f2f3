"""The one training loop: steps, hooks, and a clean stop when the machine is wanted back.

A step number counts finished steps: hooks see 1 after the first step, and a run that saved at step
n goes on with `start=n`. The loop knows no checkpoints, writers or evaluators; they are hooks.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
from jax.experimental import multihost_utils

from flashjax.parallel import signals
from flashjax.parallel.hosts import any_process, share_stop
from flashjax.types import InputError, Metrics

State: TypeAlias = Any
Step: TypeAlias = Callable[[State, Any], tuple[State, Metrics]]
Hook: TypeAlias = Callable[[int, State, Metrics], None]
Save: TypeAlias = Callable[[int, State], None]


class Interrupted(Exception):
    """A signal asked to stop; everything up to `step` is saved (exit code 75)."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted after step {step}; all is saved, run the same command again")
        self.step = step


def loop(
    step: Step,
    state: State,
    batches: Iterator[Any],
    *,
    start: int,
    stop: int,
    hooks: Sequence[Hook] = (),
    save: Save | None = None,
) -> State:
    """Run `step(state, batch) -> (state, metrics)` for steps start+1 .. stop.

    On SIGTERM or SIGINT the step in flight ends (in a process that listens from its start, but for
    the first: parallel/signals.py), `save(step, state)` is called (it must not return
    before the state is on disk) and Interrupted is raised; a second signal ends the process. Of
    several processes one may have the signal: all end after the same step.
    """
    with _stop_signals(stop) as asked_to_stop:
        for number in range(start + 1, stop + 1):
            batch = next(batches, None)
            if batch is None:
                raise InputError(f"the data ended before step {number} of {stop}: repeat it")
            state, metrics = step(state, batch)
            for hook in hooks:
                hook(number, state, metrics)
            if asked_to_stop(number):
                if save is not None:
                    save(number, state)
                raise Interrupted(number)
    return state


def every(steps: int, hook: Hook, *, stop: int | None = None) -> Hook:
    """The hook at every `steps`-th step only, and at the step `stop`."""

    def sometimes(step: int, state: State, metrics: Metrics) -> None:
        if step % steps == 0 or step == stop:
            hook(step, state, metrics)

    return sometimes


def once(number: int, hook: Hook) -> Hook:
    """The hook at the step of this number alone, counted from 1 at every start."""
    calls = itertools.count(1)

    def at_that(step: int, state: State, metrics: Metrics) -> None:
        if next(calls) == number:
            hook(step, state, metrics)

    return at_that


@contextlib.contextmanager
def _stop_signals(last: int) -> Iterator[Callable[[int], bool]]:
    """Whether to stop after a step, because of a SIGTERM or SIGINT.

    Of several processes JAX's coordinator finds the step that all of them reach; where there is
    none before the `last`, they stop after that.
    """
    if jax.process_count() == 1:
        with signals.deferred() as asked:
            yield lambda step: asked()
        return
    never = contextlib.nullcontext(lambda: False)
    with signals.deferred(share_stop) if signals.listening() else never as asked:

        def agreed(step: int) -> bool:
            own = asked()
            reached = multihost_utils.reached_preemption_sync_point(step)
            return reached or (step == last and any_process(own))

        yield agreed
