"""A small guidance job, run by any number of processes: `python job.py FOLDER START STOP`.

The real step, mesh, batches and checkpoints around a velocity of two matrices, so that it compiles
in a second. Prints the losses as JSON. For the folder "branches" it trains two branches, stacked.
"""

import dataclasses
import json
import os
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax.checkpoint import Checkpoints
from flashjax.data.pipeline import batches, to_mesh
from flashjax.flow.schedule import student_sigmas
from flashjax.models.clip import CLIPConfig
from flashjax.models.text import AbsentT5, TextConfig
from flashjax.parallel.branches import branch_shardings, over_branches, stack
from flashjax.parallel.hosts import initialise
from flashjax.parallel.mesh import make_mesh, simulate_devices
from flashjax.parallel.sharding import Constraint, Rules, state_shardings
from flashjax.train.average import AverageConfig
from flashjax.train.guide import GuideConfig, make_guide_step
from flashjax.train.state import Descent, Frozen, init_state
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
    constrain = Constraint(mesh, RULES)

    def velocity(params, x, sigma, cond):
        hidden = x.reshape(len(x), -1) @ params["up"] + sigma[:, None] + cond.pooled.sum()
        hidden = constrain(jnp.sin(hidden), "batch", "hidden")
        return (hidden @ params["down"]).reshape(x.shape)

    return velocity


@dataclasses.dataclass(frozen=True)
class World:
    """The step, a first state, its shardings, what the step reads, and the samples, on a mesh."""

    mesh: Mesh
    step: Any
    init: Any
    shardings: Any
    frozen: Frozen
    samples: Batch


def world_on(mesh):
    descent = Descent(optax.adam(1e-2), AverageConfig(decay=0.9))
    config = GuideConfig(guidance_scale=2.0, substeps=2, drop_t5=0.0)
    sigmas = jnp.asarray(student_sigmas(4, 3.0))

    def init():
        return init_state(parameters(0), descent)

    whole = NamedSharding(mesh, P())
    return World(
        mesh=mesh,
        step=make_guide_step(velocity_on(mesh), TEXT, descent, config, sigmas),
        init=init,
        shardings=state_shardings(jax.eval_shape(init), RULES, mesh),
        frozen=Frozen(
            teacher=jax.device_put(parameters(2), state_shardings(parameters(2), RULES, mesh)),
            student=None,
            text={},
            empty=jax.device_put(Cond(draw(4, 1, 3, 8), draw(5, 1, 12)), whole),
            span=jax.device_put(np.int32([0, 4]), whole),
        ),
        samples=Batch(
            draw(6, SAMPLES, SIDE, SIDE, CHANNELS),
            Cond(draw(7, SAMPLES, 3, 8), draw(8, SAMPLES, 12)),
        ),
    )


def run(folder, start, stop, devices=None):
    """The losses of steps start+1 .. stop; saves at the end, and restores if it does not start."""
    world = world_on(make_mesh({"data": 2, "fsdp": 2}, devices))
    data = batches(world.samples, batch_size=8, seed=0)
    checkpoints = Checkpoints(folder)
    state = jax.jit(world.init, out_shardings=world.shardings)()
    if start:
        wanted = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(world.init),
            world.shardings,
        )
        state, position = checkpoints.restore(start, wanted)
        data.set_state(position)
    advance = jax.jit(world.step, out_shardings=(world.shardings, None))
    losses = []
    for _ in range(start, stop):
        batch = to_mesh(next(data), world.mesh)
        state, metrics = advance(state, world.frozen, batch, jax.random.key(1))
        losses.append(float(metrics["student/loss"]))
    checkpoints.save(stop, state, data.get_state(), wait=True)
    checkpoints.close()
    return losses


def run_branches(number, steps, *, first=0, devices=None):
    """The losses of each branch that has a device here, by its place among all."""
    mesh = make_mesh({"branch": number, "fsdp": 2}, devices)
    world = world_on(mesh)
    data = batches(world.samples, batch_size=8, seed=0)
    shardings = branch_shardings(world.shardings, mesh)

    def on_span(state, span, *shared):
        return world.step(state, *shared)

    state = jax.jit(lambda: stack([world.init()] * number), out_shardings=shardings)()
    span = jax.device_put(np.zeros((number, 2), np.int32), NamedSharding(mesh, P("branch")))
    together = over_branches(on_span, mesh, first=first)
    advance = jax.jit(together, out_shardings=(shardings, None))
    losses = {}
    for _ in range(steps):
        batch = to_mesh(next(data), mesh)
        state, metrics = advance(state, span, world.frozen, batch, jax.random.key(1))
        for shard in metrics["student/loss"].addressable_shards:
            if shard.replica_id == 0:
                branch = str(first + (shard.index[0].start or 0))
                losses.setdefault(branch, []).append(float(shard.data[0]))
    return losses


if __name__ == "__main__":
    where, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    simulate_devices(4 // int(os.environ["FLASHJAX_PROCESSES"]))
    initialise(os.environ)
    found = run_branches(2, stop) if where == "branches" else run(where, start, stop)
    print(json.dumps(found))
