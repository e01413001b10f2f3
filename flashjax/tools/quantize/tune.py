"""`quantize --tune`: the student learns, on the grid of its file, to be what it was."""

import functools
import operator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import SingleDeviceSharding

from flashjax import trees
from flashjax.checkpoint import load_params, save_params
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import transformer_to
from flashjax.data.pipeline import Chosen
from flashjax.models.mmdit import MMDiT, velocity_of
from flashjax.models.text import encode_text
from flashjax.parallel.sharding import abstract_on
from flashjax.quantize.grid import on_grid
from flashjax.stages.model import PARAMS, digests_of
from flashjax.stages.stage import run_stage
from flashjax.stages.training import JobConfig, run_job
from flashjax.tools.quantize.student import Student
from flashjax.train.average import AverageConfig
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import Descent, TrainState, init_state
from flashjax.train.tune import make_tune_step
from flashjax.types import Cond, InputError, Metrics, Params

BATCH = 8  # captions a step, each at every step of the student
OPTIMISER = OptimiserConfig(learning_rate=2e-5, warmup_steps=10)
AVERAGE = AverageConfig(decay=0.9)  # weights at the edge between two codes go to and fro
CHECKPOINTS, LOGS = 5, 20  # of a tuning


def tuned(
    student: Student,
    tensors: Tensors,
    captions: list[str],
    *,
    scheme: str,
    steps: int,
    seed: int,
    out: Path,
) -> Tensors:
    """The tensors (SAI's names) after `steps` of fine-tuning on the grid of `scheme`, in float32.

    The captions are all the data: states are those of the student as it was. The job lies in
    `out`/tune: interrupted it goes on, finished it is read. InputError for fewer captions than a
    batch takes, or where `out` holds the tuning of something else.
    """
    if len(captions) < BATCH:
        raise InputError(f"--tune takes {BATCH} captions a step: --calibrate has {len(captions)}")

    def body(folder: Path) -> dict[str, Any]:
        state = _train(folder, student, tensors, captions, scheme=scheme, steps=steps, seed=seed)
        save_params(folder / PARAMS, state.learner.ema)
        return {"steps": steps}

    # The weights themselves are part of what was asked for, under whatever path they lie; so is
    # what makes conditions and noise.
    weights = {name: float(np.square(tensors[name], dtype=np.float64).sum()) for name in tensors}
    section = {"steps": steps, "scheme": scheme, "sigmas": student.sigmas}
    section |= {"captions": "\n".join(captions), "weights": weights}
    digests = digests_of(student.pipeline, student.tokenizers)
    section |= {name: digests[name] for name in ("text", "tokenizers")}
    section |= {"sample_size": student.pipeline.sample_size}
    run_stage("tune", section, out, body, inputs={}, seed=seed)
    params = load_params(out / "tune" / PARAMS)
    return transformer_to(params, student.pipeline.transformer_config, "sai")


def _train(
    folder: Path,
    student: Student,
    tensors: Tensors,
    captions: list[str],
    *,
    scheme: str,
    steps: int,
    seed: int,
) -> TrainState:
    pipeline = student.pipeline
    config, teacher = pipeline.transformer_config, pipeline.transformer
    descent = Descent(make_optimiser(_decaying(steps), steps), AVERAGE)
    step = make_tune_step(velocity_of(MMDiT(config)), descent, student.sigmas)
    rounded = on_grid(tensors, config, scheme=scheme)

    def init(teacher: Params) -> TrainState:
        return init_state(trees.cast(teacher, jnp.float32), descent)

    abstract = jax.eval_shape(init, teacher)
    here = jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), abstract)
    advance = jax.jit(step, out_shardings=(here, None))

    def train(state: TrainState, batch: tuple[Array, Cond]) -> tuple[TrainState, Metrics]:
        return advance(state, rounded(state.learner.params), teacher, *batch)

    return run_job(
        "tune",
        folder,
        JobConfig(steps, BATCH, max(1, steps // LOGS), max(1, steps // CHECKPOINTS)),
        step=train,
        init=lambda: jax.jit(init, out_shardings=here)(teacher),
        abstract=abstract_on(abstract, here),
        data=Drawn(student, captions, seed=seed),
    )


class Drawn:
    """Noise and captions without end; what a step gets follows from the seed and its number."""

    def __init__(self, student: Student, captions: list[str], *, seed: int) -> None:
        pipeline = student.pipeline
        encode = jax.jit(lambda text, tokens: encode_text(pipeline.text_config, text, tokens))
        self._cond = functools.partial(encode, pipeline.text)
        self._student, self._tokens = student, student.tokenizer(captions)
        self._count, self._seed, self._step = len(captions), seed, 0
        self._chosen: Chosen = []

    def __iter__(self) -> "Drawn":
        return self

    def __next__(self) -> tuple[Array, Cond]:
        random = np.random.default_rng([self._seed, self._step])
        self._step += 1
        chosen = random.choice(self._count, BATCH, replace=False)
        self._chosen = [(0, chosen.tolist())]
        noise = jnp.asarray(self._student.noise(int(random.integers(2**31)), BATCH))
        part = jax.tree.map(operator.itemgetter(chosen), self._tokens)
        return noise, self._cond(part)

    def chosen(self) -> Chosen:
        """The captions of the last batch."""
        return self._chosen

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position: the next batch is the one that followed `get_state`."""
        self._step = state["step"]


def _decaying(steps: int) -> OptimiserConfig:
    """A cosine over the last three quarters."""
    return OptimiserConfig(
        learning_rate=OPTIMISER.learning_rate,
        warmup_steps=min(OPTIMISER.warmup_steps, steps // 4),
        decay_steps=3 * steps // 4,
    )
