"""What the distillation stages share: networks on a mesh, the frozen part, the data, the grid."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.convert.pipeline import Pipeline
from flashjax.data.latents import load_latents
from flashjax.flow.schedule import student_sigmas
from flashjax.models.heads import Heads, HeadsConfig
from flashjax.models.layers import apply
from flashjax.models.mmdit import MMDiT, features_of, velocity_of
from flashjax.parallel.layout import MMDIT
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import Rules, constrain_on, state_shardings
from flashjax.stages.model import open_model
from flashjax.stages.prepare import TRAIN
from flashjax.train.match import Networks
from flashjax.train.state import Frozen
from flashjax.types import Batch, InputError, Params

RULES = Rules(params=(*MMDIT.params, (r"pool/.*", PartitionSpec())), activations=MMDIT.activations)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A mesh with the networks of one run on it."""

    mesh: Mesh
    pipeline: Pipeline
    nets: Networks
    sigmas: Array
    frozen: Frozen
    samples: Batch


def open_setting(
    config: ConfigDict, workdir: Path, *, mesh: ConfigDict, student: Params | None = None
) -> Setting:
    """Opens the teacher and the data for a stage that trains on `mesh`.

    `student` is the frozen student of a stage that trains branches; without it the span covers
    every step.
    """
    devices = make_mesh(mesh)
    pipeline, tokenizer = open_model(workdir)
    steps = config.student.steps
    if steps < 2:
        raise InputError(f"student.steps={steps}: a step shares a later level, so give 2 or 4")
    put = functools.partial(jax.device_put, device=NamedSharding(devices, PartitionSpec()))
    frozen = Frozen(
        teacher=lay_out(pipeline.transformer, devices),
        student=None if student is None else lay_out(student, devices),
        text=put(pipeline.text),
        empty=put(tokenizer([""])),
        span=put(jnp.array([0, steps], jnp.int32)),
    )
    return Setting(
        mesh=devices,
        pipeline=pipeline,
        nets=make_networks(config, pipeline, devices),
        sigmas=jnp.asarray(student_sigmas(steps, pipeline.shift)),
        frozen=frozen,
        samples=load_latents(workdir / "prepare" / TRAIN),
    )


def lay_out(params: Params, mesh: Mesh) -> Params:
    """A network's parameters on the mesh."""
    return jax.device_put(params, state_shardings(params, RULES, mesh))


def abstract_on(abstract: Any, shardings: Any) -> Any:
    """Shapes with shardings, to restore a state into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def make_networks(config: ConfigDict, pipeline: Pipeline, mesh: Mesh) -> Networks:
    """Velocity, features and heads with this mesh's constraints."""
    constrain = constrain_on(mesh, RULES)
    sizes = pipeline.transformer_config
    model = MMDiT(sizes, constrain=constrain)
    heads_config = configs.section(config, "match.heads", HeadsConfig)
    heads = Heads(heads_config, constrain=constrain)
    side = pipeline.sample_size // sizes.patch
    tokens = jnp.zeros((len(heads_config.taps), 1, side * side, sizes.width))

    def judge(params: Params, tokens: Array) -> Array:
        return apply(heads, params, tokens, rows=side)

    def init_heads(key: Array) -> Params:
        return Heads(heads_config).init(key, tokens, rows=side)["params"]

    return Networks(
        velocity=velocity_of(model),
        features=features_of(model, heads_config.taps),
        heads=judge,
        init_heads=init_heads,
        text=pipeline.text_config,
    )
