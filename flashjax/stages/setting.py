"""What the distillation stages share: networks on a mesh, the frozen part, the data, the grid."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax import trees
from flashjax.convert.pipeline import Pipeline
from flashjax.data.cache import (
    LATENTS,
    Cache,
    open_buckets,
    open_empty,
    read_cache,
    without_pictures,
)
from flashjax.data.config import DataConfig
from flashjax.data.pipeline import Ahead, batches, to_mesh
from flashjax.data.prompts import Prompts, stream_tokens
from flashjax.flow.schedule import student_sigmas
from flashjax.models.attention import BACKENDS, attend_on
from flashjax.models.heads import Heads, HeadsConfig
from flashjax.models.layers import apply
from flashjax.models.mmdit import REMAT, MMDiT, features_of, velocity_of
from flashjax.models.text import AbsentT5, TextConfig, encode_text
from flashjax.parallel.layout import ROLES, STATE
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import check_split, constrain_on, param_shardings, state_shardings
from flashjax.stages.model import (
    Described,
    made_with,
    open_networks,
    open_tokenizer,
    read_model,
    student_of,
)
from flashjax.train.match import Networks
from flashjax.train.state import Frozen
from flashjax.types import Batch, Cond, InputError, Params, Tokens

UNSPLIT = 0.02  # share of a state's bytes that may lie whole on every device: heads, vectors
UNSPLIT_BYTES = 2**28  # and bytes that do no harm
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How networks are computed: what they are does not depend on it."""

    dtype: str = "float32"  # of activations, and of weights where they are used
    residual: str = "float32"  # of the stream that blocks add to, and of what they add
    teacher_dtype: str = "float32"  # of the teacher's weights where they are stored
    teacher_whole: bool = False  # not split over fsdp: more memory, and no pass gathers them
    text_dtype: str = "float32"  # of the text encoders' weights
    remat: str = "none"  # a name of models/mmdit.REMAT
    fake_remat: str = ""  # of the fake score where it is trained; "" as the student's
    attention: str = "xla"  # xla, splash (TPU), cudnn (GPU)
    encode_apart: bool = False  # captions are encoded once a batch, by a program of its own

    def __post_init__(self) -> None:
        dtypes = dict.fromkeys(("dtype", "residual", "teacher_dtype", "text_dtype"), tuple(DTYPES))
        remat = {"remat": tuple(REMAT), "fake_remat": ("", *REMAT)}
        for name, known in (dtypes | remat | {"attention": BACKENDS}).items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"compute.{name}={getattr(self, name)}: choose of {', '.join(known)}"
                )

    @property
    def teacher_role(self) -> str:
        """How the teacher is laid out: a name of parallel/layout.ROLES."""
        return "whole_teacher" if self.teacher_whole else "teacher"


def compute_of(config: ConfigDict) -> Compute:
    """The section `compute`, or its defaults."""
    return configs.section(config, "compute", Compute) if "compute" in config else Compute()


@dataclasses.dataclass(frozen=True)
class Setting:
    """A mesh with the networks of one run on it; `encode` where captions are encoded apart."""

    mesh: Mesh
    pipeline: Pipeline
    nets: Networks
    sigmas: Array
    frozen: Frozen
    samples: tuple[Batch, ...]  # by bucket
    encode: Callable[[Params, Tokens], Cond] | None = None

    def batches(self, batch_size: int, *, seed: int) -> Ahead:
        """The samples, shuffled, on the mesh one batch ahead; a batch is of one bucket."""
        return Ahead(batches(*self.samples, batch_size=batch_size, seed=seed), self.put)

    def put(self, batch: Batch) -> Batch:
        """A batch on the mesh, its captions encoded if that is not the steps' work."""
        batch = to_mesh(batch, self.mesh)
        if self.encode is None or isinstance(batch.tokens, Cond):
            return batch
        return dataclasses.replace(batch, tokens=self.encode(self.pipeline.text, batch.tokens))


def open_setting(
    config: ConfigDict,
    workdir: Path,
    *,
    mesh: Mapping[str, Any],
    student: str = "",
    prompts: str = "",
) -> Setting:
    """Opens the teacher and the data for a stage that trains on `mesh`.

    `student` is the stage whose student is frozen, for a stage that trains branches; without it
    the span covers every step. `prompts` is a file of captions to train on instead of the prepared
    samples.
    """
    devices = make_mesh(mesh)
    steps = student_steps(config)
    cache = None if prompts else open_cache(config, workdir)
    encoded = cache is not None and cache.made["kept"] == "embeddings"
    names = ("transformer",) if encoded else ("transformer", "text")
    pipeline = open_networks(workdir, devices, names=names)
    compute = compute_of(config)
    whole = NamedSharding(devices, PartitionSpec())
    text = trees.cast(pipeline.text, DTYPES[compute.text_dtype])
    teacher = trees.cast(pipeline.transformer, DTYPES[compute.teacher_dtype])
    # What is computed with replaces what was read: no second copy stays in memory.
    pipeline = dataclasses.replace(
        pipeline,
        transformer=lay_out(teacher, devices, compute.teacher_role),
        text=lay_out(text, devices, "text"),
    )
    empty: Any
    if cache is None:
        tokenizer = open_tokenizer(workdir, pipeline)  # prepared samples need none
        empty = tokenizer([""])
        side = data_side(config, pipeline.sample_size * pipeline.vae_config.factor)
        latents = side // pipeline.vae_config.factor
        shape = (latents, latents, pipeline.transformer_config.channels)
        blank = without_pictures(stream_tokens(Prompts(prompts), tokenizer), shape)
        samples: tuple[Batch, ...] = (blank,)
    else:
        folder = workdir / "prepare"
        samples = open_buckets(folder, cache, pipeline.text_config.vocabularies)
        empty = jax.tree.map(lambda column: column[np.zeros(1, int)], open_empty(folder, cache))
    empty = jax.device_put(empty, whole)
    apart = compute.encode_apart and not encoded
    sizes = computed_text(config, pipeline.text_config)
    encode = make_encoder(sizes, devices) if apart else None
    frozen = Frozen(
        teacher=pipeline.transformer,
        student=student_of(workdir, student, devices) if student else None,
        text=pipeline.text if encode is None else {},
        empty=empty if encode is None else encode(pipeline.text, empty),
        span=jax.device_put(jnp.array([0, steps], jnp.int32), whole),
    )
    return make_setting(config, devices, pipeline, frozen, samples, encode)


def open_cache(config: ConfigDict, workdir: Path) -> Cache:
    """What `prepare` left. InputError if it is another model's, or of another size."""
    data = configs.section(config, "data", DataConfig)
    cache = read_cache(workdir / "prepare")
    side = data_side(config, cache.made.get("side", 0))
    cache.check(made_with(workdir, data, side), workdir / "prepare")
    cache.check_dims(dims_of(read_model(workdir)), workdir / "prepare")
    return cache


def dims_of(model: Described) -> dict[str, int]:
    """The last dim of every field that a cache for the model may have, if it is the model's."""
    sizes = model.transformer
    return {LATENTS: sizes.channels, "text": sizes.text_width, "pooled": sizes.pooled_width}


def data_side(config: ConfigDict, own: int) -> int:
    """The side in pixels of the squares that a run learns; `own` is the model's."""
    return configs.section(config, "data", DataConfig).size or own


def at_its_size(config: ConfigDict, pipeline: Pipeline) -> Pipeline:
    """The model as it draws the pictures that the run has learnt, of `data.size`."""
    factor = pipeline.vae_config.factor
    side = data_side(config, pipeline.sample_size * factor)
    return dataclasses.replace(pipeline, sample_size=side // factor)


def make_setting(
    config: ConfigDict,
    mesh: Mesh,
    pipeline: Pipeline,
    frozen: Frozen,
    samples: tuple[Batch, ...],
    encode: Callable[[Params, Tokens], Cond] | None,
) -> Setting:
    """The setting of networks that are on the mesh already, arrays or their shapes."""
    return Setting(
        mesh=mesh,
        pipeline=pipeline,
        nets=make_networks(config, pipeline, mesh),
        sigmas=jnp.asarray(student_sigmas(student_steps(config), pipeline.shift)),
        frozen=frozen,
        samples=samples,
        encode=encode,
    )


def student_steps(config: ConfigDict) -> int:
    """The number of steps of the student's grid."""
    steps = config.student.steps
    if steps < 1:
        raise InputError(f"student.steps={steps}: give 1, 2 or 4")
    return steps


def make_encoder(sizes: TextConfig, mesh: Mesh) -> Callable[[Params, Tokens], Cond]:
    """The program that encodes the captions of a batch once, for all programs that read it."""

    def encode(params: Params, tokens: Tokens) -> Cond:
        cond = encode_text(sizes, params, tokens)
        return jax.tree.map(lambda leaf: constrain_batch(leaf, mesh), cond)

    return jax.jit(encode)


def constrain_batch(x: Array, mesh: Mesh) -> Array:
    """Samples over data and fsdp, where there are enough of them."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    spec = PartitionSpec() if len(x) % parts else PartitionSpec(("data", "fsdp"))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def computed_text(config: ConfigDict, text: TextConfig) -> TextConfig:
    """The text encoders in the dtype that `compute` gives them."""
    dtype = DTYPES[compute_of(config).text_dtype]
    t5 = text.t5
    return TextConfig(
        clip_l=dataclasses.replace(text.clip_l, dtype=dtype),
        clip_g=dataclasses.replace(text.clip_g, dtype=dtype),
        t5=t5 if isinstance(t5, AbsentT5) else dataclasses.replace(t5, dtype=dtype),
    )


def masters(network: Params) -> Params:
    """The shapes of a network's weights as they are trained, in fp32."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), network)


def lay_out(params: Params, mesh: Mesh, role: str) -> Params:
    """A network's parameters on the mesh, as its role is stored."""
    return jax.device_put(params, param_shardings(params, ROLES[role], mesh))


def state_layout(abstract: Any, mesh: Mesh) -> Any:
    """The shardings of a training state; InputError if too much of it lies on every device."""
    shardings = state_shardings(abstract, STATE, mesh)
    check_split(abstract, shardings, mesh, tolerance=UNSPLIT, floor=UNSPLIT_BYTES)
    return shardings


def make_networks(config: ConfigDict, pipeline: Pipeline, mesh: Mesh) -> Networks:
    """Velocity, features and heads with this mesh's constraints, for latents of any size."""
    constrain = constrain_on(mesh, STATE)
    sizes = pipeline.transformer_config
    compute = compute_of(config)
    dtypes = {name: DTYPES[getattr(compute, name)] for name in ("dtype", "residual")}
    computed = dataclasses.replace(sizes, remat=compute.remat, **dtypes)
    attend = attend_on(mesh, STATE, compute.attention)
    model = MMDiT(computed, constrain=constrain, attend=attend)
    judged = dataclasses.replace(computed, remat=compute.fake_remat or compute.remat)
    fake = MMDiT(judged, constrain=constrain, attend=attend)
    heads_config = configs.section(config, "match.heads", HeadsConfig)
    heads = Heads(heads_config, constrain=constrain)
    # Weights of heads do not know the size of a picture; the least that they look at is 2 x 2.
    tokens = jnp.zeros((len(heads_config.taps), 1, 4, sizes.width))

    def judge(params: Params, tokens: Array, *, height: int) -> Array:
        return apply(heads, params, tokens, rows=height // sizes.patch)

    def init_heads(key: Array) -> Params:
        return Heads(heads_config).init(key, tokens, rows=2)["params"]

    return Networks(
        velocity=velocity_of(model),
        features=features_of(fake, heads_config.taps),
        heads=judge,
        init_heads=init_heads,
        text=computed_text(config, pipeline.text_config),
    )
