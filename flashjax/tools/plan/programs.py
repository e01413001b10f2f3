"""The programs of a run on a machine that may not be here: the actual steps, abstract arguments."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax import trees
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.text import abstract_text
from flashjax.convert.transformer import abstract_transformer
from flashjax.data.config import DataConfig
from flashjax.data.pipeline import rows_on
from flashjax.data.tokenizers import load_tokenizers
from flashjax.flow.schedule import Schedule
from flashjax.models.flops import text_flops
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.text import TextConfig, encode_text
from flashjax.models.variants import MMDIT, NANO_LENGTH, SD3_TEXT, SD3_VAE, nano_text
from flashjax.parallel.branches import branch_shardings, stack
from flashjax.parallel.mesh import Islands, make_mesh
from flashjax.parallel.sharding import abstract_on
from flashjax.stages import guide, match, split
from flashjax.stages.compute import DTYPES, compute_of
from flashjax.stages.costs import encoded_samples, pass_flops, rolled_out
from flashjax.stages.model import packaged
from flashjax.stages.setting import (
    Setting,
    abstract_student,
    computed_text,
    everywhere,
    make_setting,
    masters,
    state_layout,
)
from flashjax.train.flops import critic_flops, guide_flops, student_flops
from flashjax.train.guide import GuideConfig
from flashjax.train.match import MatchConfig
from flashjax.types import Batch, Cond, Count, InputError, Positive, Tokens, Whole


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model that a plan assumes; a run reads it from its source. `depth` 0: as named."""

    name: str  # of models/variants.py
    sample_size: Count  # side of the latents
    shift: Positive = 3.0  # of the teacher's schedule
    t5_tokens: Count = 256  # of a caption
    depth: Whole = 0  # blocks; 0: as named


@dataclasses.dataclass(frozen=True)
class Model:
    """What a model draws, and the sizes of its networks."""

    drawn: ModelConfig
    transformer: MMDiTConfig
    text: TextConfig


@dataclasses.dataclass(frozen=True)
class Planned:
    """One program: its jitted step, abstract arguments, and what it must cost.

    `flops` are operations per sample by network, `trips` the mean length of its roll-out,
    `calls` how often it runs in the configured stage, `resident` the bytes per device that stay in
    memory beside its arguments.
    """

    name: str
    mesh: Mesh
    step: Any
    arguments: tuple[Any, ...]
    samples: int
    flops: Mapping[str, float]
    forward: float
    trips: float
    calls: int
    branches: int = 1
    resident: int = 0


def programs(
    config: ConfigDict,
    devices: Any,
    names: tuple[str, ...] = (),
    *,
    model: Model | None = None,
    islands: Islands | None = None,
) -> list[Planned]:
    """The programs of every distillation stage of a config, or those of `names`.

    `model` is by default the one that the config names; `islands` are those of the machine that
    `devices` stand for.
    """
    makers = {
        "text": (config.mesh, _text),
        "guide": (config.mesh, _guide),
        "student": (config.mesh, _match(0)),
        "critic": (config.mesh, _match(1)),
        "split-student": (config.split.mesh, _split(0)),
        "split-critic": (config.split.mesh, _split(1)),
    }
    unknown = set(names) - set(makers)
    if unknown:
        raise InputError(f"--programs {','.join(unknown)}: choose of {', '.join(makers)}")
    apart = compute_of(config).encode_apart and not caches_text(config)
    chosen = names or tuple(name for name in makers if apart or name != "text")
    if "text" in chosen and not apart:
        raise InputError("--programs text: no program encodes captions apart from the others")
    model = model or named_model(config)
    planned = []
    for name in chosen:
        mesh_sizes, make = makers[name]
        setting = abstract_setting(config, model, make_mesh(mesh_sizes, devices, islands))
        planned.append(make(config, model.drawn, setting))
    return planned


def named_model(config: ConfigDict) -> Model:
    """The model that the config names, with the sizes that its name stands for."""
    drawn = model_of(config)
    return Model(drawn, *sizes_of(drawn))


def model_of(config: ConfigDict) -> ModelConfig:
    """The model that the config names: its section `model`, or the packaged teacher."""
    if "model" in config:
        model = configs.section(config, "model", ModelConfig)
    else:
        model = ModelConfig(config.teacher.source, sample_size=8, t5_tokens=NANO_LENGTH)
    if model.name not in MMDIT:
        raise InputError(
            f"model.name={model.name} is unknown: give the config a section model with a name of "
            f"{', '.join(MMDIT)}"
        )
    return model


def sizes_of(model: ModelConfig) -> tuple[MMDiTConfig, TextConfig]:
    """Transformer and text encoders of a model; a cut one keeps its share of dual blocks."""
    sizes = MMDIT[model.name]
    if model.depth:
        dual = min(sizes.dual * model.depth // sizes.depth, model.depth - 1)
        sizes = dataclasses.replace(sizes, depth=model.depth, dual=dual)
    if model.name != "nano":
        return sizes, SD3_TEXT
    tokenizer = load_tokenizers(packaged("nano"))
    return sizes, nano_text(len(tokenizer.clip_l), len(tokenizer.t5 or ()))


def abstract_setting(config: ConfigDict, model: Model, mesh: Mesh) -> Setting:
    """A setting without a single number: shapes, dtypes and shardings only."""
    drawn, sizes, text_sizes = model.drawn, model.transformer, model.text
    cached = caches_text(config)
    shape = (1, drawn.sample_size, drawn.sample_size, sizes.channels)
    latents: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
    pipeline = Pipeline(
        transformer=abstract_transformer(sizes),
        transformer_config=sizes,
        vae={},
        vae_config=SD3_VAE,
        text={} if cached else abstract_text(text_sizes),
        text_config=text_sizes,
        schedule=Schedule(drawn.shift),
        sample_size=drawn.sample_size,
    )
    empty = _tokens(text_sizes, drawn)
    if cached:
        empty = _encoded(config, text_sizes, empty)
    return make_setting(config, mesh, pipeline, (Batch(latents, empty),), empty)


def caches_text(config: ConfigDict) -> bool:
    """Whether captions are encoded once, by `prepare`: no training has a text encoder."""
    return config.data.get("text", "") == "embeddings"


def _text(config: ConfigDict, model: ModelConfig, setting: Setting) -> Planned:
    size = config.match.job.batch_size
    texts = setting.pipeline.text_config
    tokens = everywhere(_tokens(texts, model, size), rows_on(setting.mesh, size))
    forward = text_flops(texts, t5_tokens=model.t5_tokens)
    return Planned(
        name="text",
        mesh=setting.mesh,
        step=setting.encode,
        arguments=(setting.pipeline.text, tokens),
        samples=size,
        flops={"text": forward},
        forward=forward,
        trips=1.0,
        calls=math.ceil(encoded_samples(config) / size),
    )


def _guide(config: ConfigDict, model: ModelConfig, setting: Setting) -> Planned:
    step, init = guide.make_step(config, setting)
    state = _state(init, setting, masters(setting.frozen.teacher))
    forward, _, text = pass_flops(config, setting, batch_size=config.guide.job.batch_size)
    flops = guide_flops(configs.section(config, "guide.guide", GuideConfig), forward)
    job = config.guide.job
    return Planned(
        name="guide",
        mesh=setting.mesh,
        step=jax.jit(step, donate_argnums=0, out_shardings=(_shardings(state), None)),
        arguments=(state, setting.frozen, setting.abstract_batch(job.batch_size), _key()),
        samples=job.batch_size,
        flops=flops | text,
        forward=forward,
        trips=1.0,
        calls=job.steps,
        resident=_resident(setting),
    )


def _match(which: int) -> Callable[..., Planned]:
    def make(config: ConfigDict, model: ModelConfig, setting: Setting) -> Planned:
        *steps, init = match.make_steps(config, "match", setting)
        key = jax.random.key(0)
        network = masters(setting.frozen.teacher)
        state = _state(init, setting, network, network, key)
        step = jax.jit(steps[which], donate_argnums=0, out_shardings=(_shardings(state), None))
        batch = setting.abstract_batch(config.match.job.batch_size)
        arguments = (state, setting.frozen, batch, _key())
        return _matched(config, setting, which, "match", step, arguments)

    return make


def _split(which: int) -> Callable[..., Planned]:
    def make(config: ConfigDict, model: ModelConfig, setting: Setting) -> Planned:
        *steps, init = match.make_steps(config, "split", setting)
        key, mesh = jax.random.key(0), setting.mesh
        network = masters(setting.frozen.teacher)
        one = jax.eval_shape(init, network, network, key)
        number = len(config.split.branches)
        shardings = branch_shardings(state_layout(one, mesh), mesh)
        state = abstract_on(
            jax.eval_shape(lambda *a: stack([init(*a)] * number), network, network, key), shardings
        )
        on_branch = NamedSharding(mesh, PartitionSpec("branch"))
        spans = jax.ShapeDtypeStruct((number, 2), jnp.int32, sharding=on_branch)
        before = abstract_student(config, network, mesh)  # takes the steps before a branch
        frozen = dataclasses.replace(setting.frozen, student=before)
        step = split.jit_on_branches(steps[which], mesh=mesh, shardings=shardings)
        batch = setting.abstract_batch(config.split.job.batch_size)
        arguments = (state, spans, frozen, batch, _key())
        return _matched(config, setting, which, "split", step, arguments)

    return make


def _matched(
    config: ConfigDict,
    setting: Setting,
    which: int,
    section: str,
    step: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Planned:
    """The record of a step of distribution matching: 0 the student's, 1 the critic's."""
    job = config[section].job
    forward, heads, text = pass_flops(config, setting, batch_size=job.batch_size)
    count = (student_flops, critic_flops)[which]
    matching = configs.section(config, "match.match", MatchConfig)
    spans = [(0, config.student.steps)]
    if section == "split":
        spans = split.branch_spans(config, setting.pipeline.shift).tolist()
    before = rolled_out(matching, spans)
    prefix = "" if section == "match" else "split-"
    return Planned(
        name=prefix + ("student", "critic")[which],
        mesh=setting.mesh,
        step=step,
        arguments=arguments,
        samples=job.batch_size,
        flops=count(matching, forward, heads, before=before) | text,
        forward=forward,
        trips=before,
        calls=match.updates_of(config, section)[which],
        branches=setting.mesh.shape["branch"],
        resident=_resident(setting),
    )


def _state(init: Callable[..., Any], setting: Setting, *arguments: Any) -> Any:
    abstract = jax.eval_shape(init, *arguments)
    return abstract_on(abstract, state_layout(abstract, setting.mesh))


def _encoded(config: ConfigDict, sizes: TextConfig, tokens: Tokens) -> Cond:
    """What the encoders make of tokens, as a cache keeps it."""
    computed = computed_text(config, sizes)
    dtype = configs.section(config, "data", DataConfig).dtype
    cond = jax.eval_shape(lambda p, t: encode_text(computed, p, t), abstract_text(sizes), tokens)
    return jax.eval_shape(lambda cond: trees.cast(cond, DTYPES[dtype]), cond)


def _tokens(sizes: TextConfig, model: ModelConfig, size: int = 1) -> Any:
    lengths = (sizes.clip_tokens, sizes.clip_tokens, model.t5_tokens)
    ids: Any = [jax.ShapeDtypeStruct((size, length), jnp.int32) for length in lengths]
    return Tokens(*ids)


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _resident(setting: Setting) -> int:
    """Bytes per device of the text encoders, where they are not an argument of the step."""
    if setting.encode is None:
        return 0
    return sum(device_bytes(leaf) for leaf in jax.tree.leaves(setting.pipeline.text))


def device_bytes(leaf: Any) -> int:
    """Bytes of an abstract array on one device."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize
