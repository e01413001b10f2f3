"""Fine-tuning on a grid: what is computed with is rounded, what moves is what was rounded.

The gradient at the rounded weights is taken for that of the weights themselves (straight-through;
Bengio et al. 2013, arXiv:1308.3432), and the 16-bit network is the teacher of its rounded self.
Letters: b batch, s steps.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.flow.guidance import Velocity
from flashjax.losses.trajectory import trajectory_loss
from flashjax.train.state import Descent, TrainState, descend
from flashjax.types import Cond, Metrics, Params

Step = Callable[[TrainState, Params, Params, Array, Cond], tuple[TrainState, Metrics]]


def make_tune_step(
    velocity: Velocity,
    descent: Descent,
    sigmas: Sequence[float],
) -> Step:
    """Builds `step(state, rounded, teacher, noise, cond) -> (state, metrics)`.

    `rounded` are the state's weights on the grid. Both networks see what the teacher sees on its
    way from `noise` down the grid `sigmas`, all of its steps in one batch "s*b".
    """
    levels = jnp.asarray(sigmas)

    def way(teacher: Params, noise: Array, cond: Cond) -> tuple[Array, Array]:
        def step(x: Array, ends: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            sigma, following = ends
            target = velocity(teacher, x, jnp.full(len(x), sigma), cond)
            return x + (following - sigma) * target, (x, target)

        return jax.lax.scan(step, noise, (levels[:-1], levels[1:]))[1]

    def loss_fn(rounded: Params, states: Array, targets: Array, cond: Cond) -> Array:
        steps, batch = states.shape[:2]
        merged = lambda x: x.reshape(steps * batch, *x.shape[2:])
        repeated = jax.tree.map(lambda x: jnp.tile(x, (steps, *(1,) * (x.ndim - 1))), cond)
        found = velocity(rounded, merged(states), jnp.repeat(levels[:-1], batch), repeated)
        return jnp.mean(trajectory_loss(found, merged(targets)))

    def step(
        state: TrainState, rounded: Params, teacher: Params, noise: Array, cond: Cond
    ) -> tuple[TrainState, Metrics]:
        states, targets = way(teacher, noise, cond)
        loss, grads = jax.value_and_grad(loss_fn)(rounded, states, targets, cond)
        metrics = {"student/loss": loss}
        learner, metrics = descend("student", state.learner, grads, metrics, descent)
        return TrainState(step=state.step + 1, learner=learner), metrics

    return step
