"""The schedule of updates: who sees which batch."""

import jax

from flashjax.stages.match import alternate


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
