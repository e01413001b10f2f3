"""`teach`: trains a complete small teacher from data: tokenizers, reader, autoencoder, flow.

Each part is a stage of its own in the workdir: `reader`, `vae`, `latents`, `flow`, `teacher`.
"""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import load_params, save_params
from flashjax.convert.folder import write_pipeline
from flashjax.convert.pipeline import Pipeline
from flashjax.data.cache import open_buckets, read_cache
from flashjax.data.config import DataConfig
from flashjax.data.pipeline import batches, to_mesh
from flashjax.data.samples import Samples, images_of
from flashjax.data.tokenizers import Tokenizer, build_tokenizers, load_tokenizers
from flashjax.flow.schedule import Schedule
from flashjax.models import layers, variants
from flashjax.models.clip import CLIPText
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.models.text import TextConfig
from flashjax.models.vae import VAEConfig
from flashjax.parallel.layout import MMDIT, REPLICATED
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import Constraint, Rules, abstract_on, state_shardings
from flashjax.stages.autoencoder import train_autoencoder
from flashjax.stages.encoding import Encoder, encode_images
from flashjax.stages.prepare import prepare
from flashjax.stages.registry import open_samples, task_named
from flashjax.stages.stage import run_stage, stage_results
from flashjax.stages.training import JobConfig, descent_of, run_job, show_parameters
from flashjax.train.autoencode import make_autoencoder_step
from flashjax.train.average import AverageConfig
from flashjax.train.state import init_state
from flashjax.train.teach import TeachConfig, make_teach_step
from flashjax.types import Cond, Params

COMMAND = "flashjax teach --config configs/nano_teacher.py"
MEASURED = 2048  # training pictures whose latents set the autoencoder's scale and shift


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains every part that is not yet there; returns the figures of all parts."""
    task = task_named(config)
    samples = open_samples(config, workdir / "data")
    tokenizers = workdir / "tokenizers"
    if not tokenizers.exists():
        build_tokenizers(
            tokenizers,
            task.words,
            clip_length=variants.NANO_LENGTH,
            t5_length=variants.NANO_LENGTH,
        )
    stage = functools.partial(run_stage, workdir=workdir, seed=config.seed)
    data = config.data.to_dict()

    results = {}
    results["vae"] = stage(
        "vae",
        {"data": data, **config.vae},
        body=functools.partial(teach_vae, config, samples["train"]),
        inputs={},
    )
    results["latents"] = stage(
        "latents",
        {"data": data},
        body=functools.partial(cache_latents, workdir, samples, tokenizers, task.side),
        inputs={"vae": workdir / "vae"},
    )
    results["flow"] = stage(
        "flow",
        {**config.flow, "mesh": config.mesh},
        body=functools.partial(teach_flow, config, workdir, tokenizers),
        inputs={"latents": workdir / "latents"},
    )
    results["reader"] = stage(
        "reader",
        config.reader,
        body=functools.partial(task.teach_judge, **config.reader, command=COMMAND),
        inputs={},
    )
    results["teacher"] = stage(
        "teacher",
        config.teacher,
        body=functools.partial(write_teacher, config, workdir, tokenizers),
        inputs={"flow": workdir / "flow", "reader": workdir / "reader"},
    )
    return results


def vocabulary_sizes(tokenizer: Tokenizer) -> tuple[int, int]:
    """Tokens that CLIP and T5 know."""
    return len(tokenizer.clip_l), 0 if tokenizer.t5 is None else len(tokenizer.t5)


def teach_vae(config: ConfigDict, samples: Samples, folder: Path) -> dict[str, float]:
    """Trains the autoencoder; its latents are scaled to mean 0 and deviation 1 afterwards."""
    images = images_of(samples)
    make_step = functools.partial(make_autoencoder_step, variants.NANO_VAE)
    params = train_autoencoder("vae", config, variants.NANO_VAE, images, folder, make_step)
    raw = dataclasses.replace(variants.NANO_VAE, scaling_factor=1.0, shift_factor=0.0)
    latents = encode_images(raw, params, images[:MEASURED])
    return {
        "shift_factor": float(np.mean(latents)),
        "scaling_factor": float(1.0 / np.std(latents)),
    }


def vae_config(results: dict[str, float]) -> VAEConfig:
    """Nano's autoencoder with the scale and shift that were measured after its training."""
    return dataclasses.replace(
        variants.NANO_VAE,
        scaling_factor=results["scaling_factor"],
        shift_factor=results["shift_factor"],
    )


def cache_latents(
    workdir: Path, samples: dict[str, Samples], tokenizers: Path, side: int, folder: Path
) -> dict[str, Any]:
    """Writes the latents and tokens of both splits."""
    sizes = vae_config(stage_results(workdir / "vae"))
    params = load_params(workdir / "vae" / "params")
    encoder = Encoder(sizes, params, load_tokenizers(tokenizers), None, "float32")
    for name, source in samples.items():
        place = folder / name
        place.mkdir(exist_ok=True)
        prepare(source, place, encoder, {"side": side}, data=DataConfig(name), side=side)
    return {name: len(source) for name, source in samples.items()}


def init_text(config: TextConfig, key: jax.Array) -> Params:
    """Fresh parameters of the text encoders that there are."""
    ids = jnp.zeros((1, variants.NANO_LENGTH), jnp.int32)
    modules: dict[str, CLIPText | T5Encoder] = {
        "clip_l": CLIPText(config.clip_l),
        "clip_g": CLIPText(config.clip_g),
    }
    if isinstance(config.t5, T5Config):
        modules["t5"] = T5Encoder(config.t5)
    keys = jax.random.split(key, len(modules))
    return {
        name: layers.init(module, key, ids)
        for (name, module), key in zip(modules.items(), keys, strict=True)
    }


def teacher_rules() -> Rules:
    """The transformer's layout below "transformer/"; the small text encoders are replicated."""
    transformer = tuple((rf"transformer/{regex}", spec) for regex, spec in MMDIT.params)
    # The encoders are named: "text" alone is also a stream of every block.
    text = tuple((rf"text/(clip_l|clip_g|t5)/{regex}", spec) for regex, spec in REPLICATED.params)
    return Rules(params=transformer + text, activations=MMDIT.activations)


def teach_flow(config: ConfigDict, workdir: Path, tokenizers: Path, folder: Path) -> dict[str, Any]:
    """Trains the transformer and the text encoders by flow matching."""
    job = configs.section(config, "flow.job", JobConfig)
    average = configs.section(config, "flow.average", AverageConfig)
    descent = descent_of(config, "flow.optimiser", job.steps, average)
    folders = workdir / "latents" / "train"
    (samples,) = open_buckets(folders, read_cache(folders))
    tokenizer = load_tokenizers(tokenizers)
    empty = tokenizer([""])
    text = variants.nano_text(*vocabulary_sizes(tokenizer))
    mesh, rules = make_mesh(config.mesh), teacher_rules()
    sizes: MMDiTConfig = variants.MMDIT["nano"]
    model = MMDiT(sizes, constrain=Constraint(mesh, rules))
    key = jax.random.key(config.seed)

    def init() -> Any:
        text_key, model_key = jax.random.split(key)
        cond = Cond(jnp.zeros((1, 2, sizes.text_width)), jnp.zeros((1, sizes.pooled_width)))
        latents = jnp.zeros((1, *samples.latents.shape[1:]))
        transformer = layers.init(MMDiT(sizes), model_key, latents, jnp.ones((1,)), cond)
        return init_state({"transformer": transformer, "text": init_text(text, text_key)}, descent)

    abstract = jax.eval_shape(init)
    shardings = state_shardings(abstract, rules, mesh)
    step = make_teach_step(
        velocity_of(model), text, descent, configs.section(config, "flow.teach", TeachConfig)
    )
    advance = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    show_parameters(abstract.learner.params)
    state = run_job(
        "flow",
        folder,
        job,
        step=lambda state, batch: advance(state, empty, to_mesh(batch, mesh), key),
        init=jax.jit(init, out_shardings=shardings),
        abstract=abstract_on(abstract, shardings),
        data=batches(samples, batch_size=job.batch_size, seed=config.seed),
    )
    save_params(folder / "params", state.learner.ema)
    return {"steps": job.steps, "samples": job.steps * job.batch_size}


def write_teacher(
    config: ConfigDict, workdir: Path, tokenizers: Path, folder: Path
) -> dict[str, Any]:
    """Writes the teacher as a diffusers pipeline in 16 bit, with the reader beside its networks."""
    params = load_params(workdir / "flow" / "params")
    pipeline = Pipeline(
        transformer=params["transformer"],
        transformer_config=variants.MMDIT["nano"],
        vae=load_params(workdir / "vae" / "params"),
        vae_config=vae_config(stage_results(workdir / "vae")),
        text=params["text"],
        text_config=variants.nano_text(*vocabulary_sizes(load_tokenizers(tokenizers))),
        schedule=Schedule(config.teacher.shift),
        sample_size=task_named(config).side // variants.NANO_VAE.factor,
    )
    write_pipeline(folder / "pipeline", pipeline, tokenizers_from=tokenizers)
    kept = task_named(config).weights(folder / "pipeline")
    shutil.copytree(
        workdir / "reader", kept, ignore=shutil.ignore_patterns("stage.json"), dirs_exist_ok=True
    )
    weights = (folder / "pipeline").rglob("*.safetensors")
    return {"bytes": sum(path.stat().st_size for path in weights)}
