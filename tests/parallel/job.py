"""A small guidance job, run by any number of processes: `python job.py FOLDER START STOP`.

The real step, mesh, batches and checkpoints around a velocity of two matrices, so that it compiles
in a second. Prints the losses as JSON.
"""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax.checkpoint import Checkpoints
from flashjax.data.pipeline import batches, to_mesh
from flashjax.flow.schedule import student_sigmas
from flashjax.models.clip import CLIPConfig
from flashjax.models.text import AbsentT5, TextConfig
from flashjax.parallel.hosts import initialise
from flashjax.parallel.mesh import make_mesh, simulate_devices
from flashjax.parallel.sharding import Rules, constrain_on, state_shardings
from flashjax.train.guide import GuideConfig, make_guide_step
from flashjax.train.state import Frozen, init_state
from flashjax.types import Batch, Cond

SIDE, CHANNELS, HIDDEN, SAMPLES = 4, 4, 16, 24
CLIP = CLIPConfig(9, 3, 8, 1, 1, 4, "gelu", 4)
TEXT = TextConfig(CLIP, CLIP, AbsentT5(8, 0))
RULES = Rules(
    params=(("(.*/)?up", P("fsdp", None)), ("(.*/)?down", P(None, "fsdp"))),
    activations={"batch": ("data", "fsdp"), "hidden": None},
)


def draw(seed, *shape):
    return np.float32(0.3 * np.random.default_rng(seed).normal(size=shape))


def parameters(seed):
    flat = SIDE * SIDE * CHANNELS
    return {"up": draw(seed, flat, HIDDEN), "down": draw(seed + 1, HIDDEN, flat)}


def velocity_on(mesh):
    constrain = constrain_on(mesh, RULES)

    def velocity(params, x, sigma, cond):
        hidden = x.reshape(len(x), -1) @ params["up"] + sigma[:, None] + cond.pooled.sum()
        hidden = constrain(jnp.sin(hidden), "batch", "hidden")
        return (hidden @ params["down"]).reshape(x.shape)

    return velocity


def run(folder, start, stop, devices=None):
    """The losses of steps start+1 .. stop; saves at the end, and restores if it does not start."""
    mesh = make_mesh({"data": 2, "fsdp": 2}, devices)
    tx = optax.adam(1e-2)
    config = GuideConfig(guidance_scale=2.0, substeps=2, drop_t5=0.0, ema_decay=0.9)
    sigmas = jnp.asarray(student_sigmas(4, 3.0))
    step = make_guide_step(velocity_on(mesh), TEXT, tx, config, sigmas)
    abstract = jax.eval_shape(lambda: init_state(parameters(0), tx))
    shardings = state_shardings(abstract, RULES, mesh)
    whole = NamedSharding(mesh, P())
    frozen = Frozen(
        teacher=jax.device_put(parameters(2), state_shardings(parameters(2), RULES, mesh)),
        student=None,
        text={},
        empty=jax.device_put(Cond(draw(4, 1, 3, 8), draw(5, 1, 12)), whole),
        span=jax.device_put(np.int32([0, 4]), whole),
    )
    samples = Batch(
        draw(6, SAMPLES, SIDE, SIDE, CHANNELS), Cond(draw(7, SAMPLES, 3, 8), draw(8, SAMPLES, 12))
    )
    data = batches(samples, batch_size=8, seed=0)
    checkpoints = Checkpoints(folder)
    state = jax.jit(lambda: init_state(parameters(0), tx), out_shardings=shardings)()
    if start:
        wanted = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            shardings,
        )
        state, position = checkpoints.restore(start, wanted)
        data.set_state(position)
    advance = jax.jit(step, out_shardings=(shardings, None))
    losses = []
    for _ in range(start, stop):
        state, metrics = advance(state, frozen, to_mesh(next(data), mesh), jax.random.key(1))
        losses.append(float(metrics["student/loss"]))
    checkpoints.save(stop, state, data.get_state(), wait=True)
    checkpoints.close()
    return losses


if __name__ == "__main__":
    where, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    simulate_devices(4 // int(os.environ["FLASHJAX_PROCESSES"]))
    initialise(os.environ)
    print(json.dumps(run(where, first, last)))
