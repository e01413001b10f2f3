"""What a plan counts for a step, against the step itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from flashjax.train.flops import steps_before, student_flops
from flashjax.train.match import make_student_loss
from flashjax.train.rollout import draw_step

SIGMAS = jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])


@pytest.mark.parametrize("halved", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("span", [(0, 4), (0, 3), (1, 3), (3, 1)])
def test_the_mean_roll_out_is_that_of_the_steps_that_are_drawn(span, halved):
    draws = jax.vmap(lambda key: draw_step(key, SIGMAS, jnp.array(span), halved=halved).index)
    index = draws(jax.random.split(jax.random.key(0), 4000))
    assert np.mean(index) == pytest.approx(steps_before(span, halved=halved), abs=0.06)


USES = [
    # What is learnt, passes of the teacher, and of the steps before the matched one.
    ({}, 6, 9),
    ({"trajectory_weight": 0.0}, 2, 7),
    ({"matching_weight": 0.0}, 4, 9),
    ({"matching_weight": 0.0, "trajectory_weight": 0.0}, 0, 7),
]


@pytest.mark.parametrize(("weights", "teacher", "rolled"), USES)
def test_a_loss_of_weight_0_costs_nothing(world, weights, teacher, rolled):
    config = world.config(**weights, through=True)
    cost = student_flops(config, 1.0, 0.0, before=3.0)
    assert (cost["teacher"], cost["roll-out"]) == (teacher, rolled)


@pytest.mark.parametrize("matching", [0.0, 1.0])
def test_a_teacher_that_costs_nothing_is_not_asked(world, matching):
    config = world.config(matching_weight=matching, trajectory_weight=0.0)
    loss = make_student_loss(world.nets, config, SIGMAS)
    state = world.state(optax.sgd(0.1))

    def gradient(teacher):
        frozen = world.frozen.replace(teacher=teacher)
        of = lambda params: loss(params, state, frozen, world.batch, jax.random.key(0))[0]
        return jax.grad(of)(state.student.params)

    jaxpr = jax.make_jaxpr(gradient)(world.frozen.teacher).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    cost = student_flops(config, 1.0, 0.0, before=0.0)["teacher"]
    assert any(used) == bool(cost) == bool(matching)
