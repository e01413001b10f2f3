"""The schedule of updates: who sees which batch."""

import dataclasses

import jax
import pytest
from ml_collections import ConfigDict

from flashjax.stages.match import alone_of, alternate
from flashjax.stages.probing import probed
from flashjax.types import InputError


def test_every_update_of_a_step_sees_a_batch_of_its_own_and_the_student_the_last():
    seen = []

    def update(name):
        def step(state, frozen, batch, key):
            seen.append((name, batch))
            return state + 1, {f"{name}/loss": batch}

        return step

    outer = alternate(update("student"), update("critic"))
    state, metrics = outer(0, None, (5, 6, 7), jax.random.key(0))
    assert seen == [("critic", 5), ("critic", 6), ("student", 7)]
    assert state == 3 and metrics == {"critic/loss": 6, "student/loss": 7}


@dataclasses.dataclass
class Counted:
    """A state that counts its updates."""

    step: int


def told(seen, name):
    def step(state, frozen, batch, key):
        seen.append(name)
        return Counted(state.step + 1), {f"{name}/loss": 0.0}

    return step


@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_critic_is_trained_alone_at_first_also_where_a_run_goes_on(done):
    """Steps before were of two updates each; of all, the first two are the critic's alone."""
    seen = []
    outer = alternate(told(seen, "student"), told(seen, "critic"), alone=2)
    state = Counted(2 * done)
    for _ in range(4 - done):
        state, _ = outer(state, None, (0, 0), None)
    every = ["critic", "critic"] * 2 + ["critic", "student"] * 2
    assert seen == every[2 * done :] and state.step == 8


def test_a_warmup_that_leaves_nothing_is_refused():
    config = ConfigDict({"match": {"warmup_steps": 60, "job": {"steps": 60}}})
    with pytest.raises(InputError, match=r"match\.warmup_steps=60 leaves none"):
        alone_of(config)


@pytest.mark.parametrize("done", [0, 3])
def test_figures_are_logged_at_every_so_many_steps_and_take_turns(done):
    def watch(state, frozen, batch, index, key):
        return {"normaliser": batch}

    outer = probed(
        lambda state, frozen, batches, key: (Counted(state.step + len(batches)), {"a": 1}),
        watch,
        every=2,
        steps=3,
    )
    state, found = Counted(2 * done), {}
    for number in range(done + 1, 9):
        state, metrics = outer(state, None, (5, 6), jax.random.key(0))
        found[number] = [name for name in metrics if name != "a"]
    want = {2: 0, 4: 1, 6: 2, 8: 0}
    assert found == {
        n: [f"probe/step{want[n]}/normaliser"] if n in want else [] for n in range(done + 1, 9)
    }
