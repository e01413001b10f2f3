"""The figures of `flashjax probe` that a `match` logs of itself, a few now and then."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.stages.setting import Setting
from flashjax.train.arms import MatchConfig
from flashjax.train.probe import agreement, make_probe
from flashjax.train.state import Frozen, MatchState
from flashjax.types import Batch, Metrics

Advance = Callable[..., tuple[MatchState, Metrics]]
Probing = Callable[[MatchState, Frozen, Batch, jax.Array, jax.Array], Metrics]


def make_probing(config: ConfigDict, setting: Setting) -> Probing:
    """Builds `look(state, frozen, batch, index, key)`: figures of the run's arm at one step.

    `draw_cosine` is that of two gradients at one input: how much what matching draws matters.
    """
    match = configs.section(config, "match.match", MatchConfig)
    probe = make_probe(setting.nets, match, setting.sigmas)

    def look(
        state: MatchState, frozen: Frozen, batch: Batch, index: jax.Array, key: jax.Array
    ) -> Metrics:
        input_key, first_key, second_key = jax.random.split(key, 3)
        first, figures = probe(state, frozen, batch, index, input_key, first_key)
        second, _ = probe(state, frozen, batch, index, input_key, second_key)
        return figures | {"draw_cosine": agreement(first, second)}

    return jax.jit(look)


def probed(advance: Advance, look: Probing, *, every: int, steps: int) -> Advance:
    """`advance`, and at every so many of its steps the figures of one of the student's `steps`.

    They take turns, as "probe/step0/…".
    """
    done: int | None = None

    def outer(
        state: MatchState, frozen: Frozen, batches: tuple[Batch, ...], key: jax.Array
    ) -> tuple[MatchState, Metrics]:
        nonlocal done
        done = int(state.step) // len(batches) if done is None else done
        state, metrics = advance(state, frozen, batches, key)
        done += 1
        if done % every:
            return state, metrics
        index = (done // every - 1) % steps
        found = look(state, frozen, batches[-1], jnp.int32(index), jax.random.fold_in(key, done))
        return state, metrics | {f"probe/step{index}/{name}": v for name, v in found.items()}

    return outer
