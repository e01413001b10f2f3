"""What a plan counts for a step, against the step itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.train.flops import steps_before
from flashjax.train.rollout import draw_step

SIGMAS = jnp.array([1.0, 0.9, 0.75, 0.5, 0.0])


@pytest.mark.parametrize("halved", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("span", [(0, 4), (0, 3), (1, 3), (3, 1)])
def test_the_mean_roll_out_is_that_of_the_steps_that_are_drawn(span, halved):
    draws = jax.vmap(lambda key: draw_step(key, SIGMAS, jnp.array(span), halved=halved).index)
    index = draws(jax.random.split(jax.random.key(0), 4000))
    assert np.mean(index) == pytest.approx(steps_before(span, halved=halved), abs=0.06)
