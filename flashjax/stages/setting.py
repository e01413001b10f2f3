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
from flashjax.data.pipeline import Ahead, batches, rows_on, to_mesh
from flashjax.data.prompts import Prompts, stream_tokens
from flashjax.flow.schedule import student_sigmas
from flashjax.models.attention import attend_on
from flashjax.models.halved import with_half
from flashjax.models.heads import Heads, HeadsConfig
from flashjax.models.layers import apply, init
from flashjax.models.mmdit import MMDiT, features_of, velocity_of
from flashjax.models.text import AbsentT5, TextConfig, encode_text
from flashjax.parallel.layout import ROLES, STATE
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import (
    Constraint,
    abstract_on,
    check_split,
    param_shardings,
    state_shardings,
)
from flashjax.stages.compute import DTYPES, compute_of
from flashjax.stages.model import (
    PARAMS,
    Described,
    abstract_networks,
    made_with,
    open_networks,
    open_tokenizer,
    read_model,
    trained_student,
)
from flashjax.train.match import Networks
from flashjax.train.state import Frozen
from flashjax.types import Batch, Cond, InputError, Params, Tokens

UNSPLIT = 0.02  # share of a state's bytes that may lie whole on every device: heads, vectors
UNSPLIT_BYTES = 2**28  # and bytes that do no harm


@dataclasses.dataclass(frozen=True)
class Setting:
    """A mesh with the networks of one run on it: their shapes, and once they are read the arrays.

    Attributes:
      mesh: that all of it lies on.
      pipeline: the teacher and its encoders, as they are computed with.
      nets: what computes with their weights.
      sigmas: the student's grid.
      frozen: what the steps read and never change.
      samples: by bucket.
      empty: the empty caption as the samples have theirs, tokens or encoded.
      encode: encodes captions, where that is not the steps' work.
      student: the stage whose student is frozen, if there is one.
    """

    mesh: Mesh
    pipeline: Pipeline
    nets: Networks
    sigmas: Array
    frozen: Frozen
    samples: tuple[Batch, ...]
    empty: Tokens | Cond
    encode: Callable[[Params, Tokens], Cond] | None = None
    student: str = ""

    def batches(self, batch_size: int, *, seed: int) -> Ahead:
        """The samples, shuffled, on the mesh one batch ahead; a batch is of one bucket."""
        return Ahead(batches(*self.samples, batch_size=batch_size, seed=seed), self.put)

    def put(self, batch: Batch) -> Batch:
        """A batch on the mesh, its captions encoded if that is not the steps' work."""
        batch = to_mesh(batch, self.mesh)
        if self.encode is None or isinstance(batch.tokens, Cond):
            return batch
        return dataclasses.replace(batch, tokens=self.encode(self.pipeline.text, batch.tokens))

    def abstract_batch(self, size: int) -> Batch:
        """The shapes of what `put` makes of a batch of the largest bucket.

        InputError if it does not split over the devices.
        """
        rows = rows_on(self.mesh, size)
        bucket = max(self.samples, key=lambda bucket: len(bucket.latents))
        shape = lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)
        batch = jax.tree.map(shape, bucket)
        if self.encode is not None and not isinstance(batch.tokens, Cond):
            tokens = jax.eval_shape(self.encode, self.pipeline.text, batch.tokens)
            batch = dataclasses.replace(batch, tokens=tokens)
        return everywhere(batch, rows)


def open_setting(
    config: ConfigDict,
    workdir: Path,
    *,
    mesh: Mapping[str, Any],
    student: str = "",
    prompts: str = "",
) -> Setting:
    """The data of a stage that trains on `mesh`, and its networks' shapes; no weight is read.

    `student` is the stage whose student is frozen, for a stage that trains branches; without it
    the span covers every step. `prompts` is a file of captions to train on instead of the prepared
    samples.
    """
    devices = make_mesh(mesh)
    cache = None if prompts else open_cache(config, workdir)
    encoded = cache is not None and cache.made["kept"] == "embeddings"
    names = ("transformer",) if encoded else ("transformer", "text")
    pipeline = abstract_networks(workdir, names=names)
    if cache is None:
        samples, empty = streamed(config, workdir, pipeline, prompts)
    else:
        folder = workdir / "prepare"
        samples = open_buckets(folder, cache, pipeline.text_config.vocabularies)
        empty = jax.tree.map(lambda column: column[np.zeros(1, int)], open_empty(folder, cache))
    return make_setting(config, devices, pipeline, samples, empty, student=student)


def read_setting(config: ConfigDict, workdir: Path, setting: Setting) -> Setting:
    """The setting with the weights of its networks, which are read now: of large ones for minutes.

    InputError if they are not there, damaged, or of other shapes.
    """
    mesh, compute, frozen = setting.mesh, compute_of(config), setting.frozen
    names = ("transformer", "text") if setting.pipeline.text else ("transformer",)
    read = open_networks(workdir, mesh, names=names)
    text = trees.cast(read.text, DTYPES[compute.text_dtype])
    teacher = trees.cast(read.transformer, DTYPES[compute.teacher_dtype])
    # What is computed with replaces what was read: no second copy stays in memory.
    read = dataclasses.replace(
        at_its_size(config, read),
        transformer=lay_out(teacher, mesh, compute.teacher_role),
        text=lay_out(text, mesh, "text"),
    )
    student = None
    if setting.student:
        student = trained_student(workdir, setting.student, mesh)
        trees.check_same(frozen.student, student, where=str(workdir / setting.student / PARAMS))
    empty = jax.device_put(setting.empty, whole_on(mesh))
    first_and_number = jnp.array([0, len(setting.sigmas) - 1], jnp.int32)
    frozen = Frozen(
        teacher=read.transformer,
        student=student,
        text=read.text if setting.encode is None else {},
        empty=empty if setting.encode is None else setting.encode(read.text, empty),
        span=jax.device_put(first_and_number, whole_on(mesh)),
    )
    return dataclasses.replace(setting, pipeline=read, frozen=frozen)


def streamed(
    config: ConfigDict, workdir: Path, pipeline: Pipeline, prompts: str
) -> tuple[tuple[Batch, ...], Tokens]:
    """The captions of a file as samples without pictures, and the empty one."""
    tokenizer = open_tokenizer(workdir, pipeline)  # prepared samples need none
    side = data_side(config, pipeline.sample_size * pipeline.vae_config.factor)
    latents = side // pipeline.vae_config.factor
    shape = (latents, latents, pipeline.transformer_config.channels)
    blank = without_pictures(stream_tokens(Prompts(prompts), tokenizer), shape)
    return (blank,), tokenizer([""])


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
    samples: tuple[Batch, ...],
    empty: Any,
    *,
    student: str = "",
) -> Setting:
    """The setting of a model of which there are shapes, laid out on the mesh as it computes.

    It is of the size that the run learns, which a schedule's shift may depend on.
    """
    pipeline = at_its_size(config, pipeline)
    compute, whole = compute_of(config), whole_on(mesh)
    teacher = abstract_as(pipeline.transformer, compute.teacher_dtype, mesh, compute.teacher_role)
    text = abstract_as(pipeline.text, compute.text_dtype, mesh, "text")
    captions, encode = empty, None
    if compute.encode_apart and not isinstance(empty, Cond):
        encode = make_encoder(computed_text(config, pipeline.text_config), mesh)
        captions = jax.eval_shape(encode, text, empty)
    span: Any = jax.ShapeDtypeStruct((2,), jnp.int32, sharding=whole)
    frozen = Frozen(
        teacher=teacher,
        student=abstract_student(config, pipeline.transformer, mesh) if student else None,
        text=text if encode is None else {},
        empty=everywhere(captions, whole),
        span=span,
    )
    return Setting(
        mesh=mesh,
        pipeline=dataclasses.replace(pipeline, transformer=teacher, text=text),
        nets=make_networks(config, pipeline, mesh),
        sigmas=jnp.asarray(student_sigmas(student_steps(config), pipeline.shift)),
        frozen=frozen,
        samples=samples,
        empty=empty,
        encode=encode,
        student=student,
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
    return dataclasses.replace(
        text,
        clip_l=dataclasses.replace(text.clip_l, dtype=dtype),
        clip_g=dataclasses.replace(text.clip_g, dtype=dtype),
        t5=t5 if isinstance(t5, AbsentT5) else dataclasses.replace(t5, dtype=dtype),
    )


def masters(network: Params) -> Params:
    """The shapes of a network's weights as they are trained, in fp32."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), network)


def abstract_as(network: Params, dtype: str, mesh: Mesh, role: str) -> Params:
    """The shapes of a network on the mesh, as its role is stored."""
    shapes = jax.eval_shape(lambda tree: trees.cast(tree, DTYPES[dtype]), network)
    return abstract_on(shapes, param_shardings(shapes, ROLES[role], mesh))


def abstract_student(config: ConfigDict, network: Params, mesh: Mesh) -> Params:
    """The shapes of what `match` trains of a student with such a network, as it is stored."""
    if config.match.match.get("told", False):
        network = jax.eval_shape(with_half, network)
    return abstract_as(network, "float32", mesh, "student")


def everywhere(tree: Any, sharding: NamedSharding) -> Any:
    """The shapes of arrays that all lie in one way."""
    return abstract_on(tree, jax.tree.map(lambda _: sharding, tree))


def whole_on(mesh: Mesh) -> NamedSharding:
    """Where what every device has whole lies."""
    return NamedSharding(mesh, PartitionSpec())


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
    constrain = Constraint(mesh, STATE)
    sizes = pipeline.transformer_config
    compute = compute_of(config)
    computed = compute.applied(sizes)
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
        return init(Heads(heads_config), key, tokens, rows=2)

    return Networks(
        velocity=velocity_of(model),
        features=features_of(fake, heads_config.taps),
        heads=judge,
        init_heads=init_heads,
        text=computed_text(config, pipeline.text_config),
    )
