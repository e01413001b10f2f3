"""Your own loss arm: another direction in which matching moves the student's samples.

    python docs/examples/own_loss.py                       # a toy flow of 2-D points, in seconds
    PYTHONPATH=docs/examples flashjax run --config docs/examples/own_loss.py --workdir runs/own

`match.match.gradient` names the function; the toy below trains with the same steps as a run.
"""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

import flashjax
from flashjax.flow.schedule import SigmaDensity, student_sigmas
from flashjax.train.arms import MatchConfig
from flashjax.train.average import AverageConfig
from flashjax.train.match import Networks, make_critic_step, make_student_step
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import Descent, Frozen, MatchState
from flashjax.types import Batch, Cond, Params

RECIPE = Path(__file__).parents[2] / "configs" / "nano_tiny.py"
STEPS, BATCH, CENTRE = 300, 64, 2.0


def clipped_gradient(x0: Array, teacher_x0: Array, fake_x0: Array, *, floor: float) -> Array:
    """The difference of the scores "b ..." itself, no element beyond 1; nothing is normalised."""
    del x0, floor
    return jnp.clip(fake_x0 - teacher_x0, -1.0, 1.0)


def get_config() -> ConfigDict:
    config = runpy.run_path(str(RECIPE))["get_config"]()
    config.match.match.gradient = "own_loss:clipped_gradient"
    return config


def velocity(params: Params, x: Array, sigma: Array, cond: Cond) -> Array:
    """Of the flow to points around `centre`, exactly: x0 is N(centre, 1), noise N(0, 1)."""
    del cond
    sigma = sigma[:, None, None, None]
    spread = jnp.square(1 - sigma) + jnp.square(sigma)
    away = x - (1 - sigma) * params["centre"]
    return away * (2 * sigma - 1) / spread - params["centre"]


def train() -> float:
    """Matches a student that begins at 0 to a teacher at CENTRE; returns where it ends."""
    config = MatchConfig(
        eta=0.0,
        guidance_scale=1.0,
        density=SigmaDensity(0.0, 1.0, 1.0),
        shared_share=0.25,
        adversarial_weight=0.0,
        trajectory_weight=0.0,
        trajectory_substeps=1,
        head_reset=0.0,
        fake_pull=0.1,
        drop_t5=0.0,
        halved=0.0,
        gradient="own_loss:clipped_gradient",
    )
    nets = Networks(
        velocity=velocity,
        features=lambda params, x, sigma, cond: (velocity(params, x, sigma, cond), x[None]),
        heads=lambda params, tokens, *, height: tokens.mean(-1) + params["bias"],
        init_heads=lambda key: {"bias": jnp.zeros((1, 1))},
        text=flashjax.load("nano").pipeline.text_config,
    )
    rate = OptimiserConfig(learning_rate=0.02)
    student, fake, heads = (
        Descent(make_optimiser(rate, STEPS), AverageConfig()),
        Descent(make_optimiser(rate, STEPS)),
        Descent(make_optimiser(rate, STEPS)),
    )
    begin, cond = {"centre": jnp.zeros(2)}, Cond(jnp.zeros((BATCH, 1, 4)), jnp.zeros((BATCH, 4)))
    frozen = Frozen(
        teacher={"centre": jnp.full(2, CENTRE)},
        student=None,
        text={},
        empty=jax.tree.map(lambda leaf: leaf[:1], cond),
        span=jnp.array([0, 4], jnp.int32),
    )
    state = MatchState(
        step=jnp.int32(0),
        student=student.start(begin),
        fake=fake.start(begin),
        heads=heads.start(nets.init_heads(jax.random.key(0))),
    )
    sigmas = jnp.asarray(student_sigmas(4, 1.0), jnp.float32)
    student_step = jax.jit(make_student_step(nets, student, config, sigmas))
    critic_step = jax.jit(make_critic_step(nets, fake, heads, config, sigmas))
    batch = Batch(latents=np.zeros((BATCH, 1, 1, 2), np.float32), tokens=cond)
    for _ in range(STEPS):
        state, _ = critic_step(state, frozen, batch, jax.random.key(1))
        state, _ = student_step(state, frozen, batch, jax.random.key(2))
    return float(state.student.params["centre"].mean())


if __name__ == "__main__":
    print(f"the student began at 0 and is at {train():.2f}; its teacher is at {CENTRE}")
