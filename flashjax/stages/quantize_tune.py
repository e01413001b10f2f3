"""`quantize --tune`: the student learns, on the grid of its file, to be what it was at 16 bits."""

import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax import trees
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import transformer_to
from flashjax.models.mmdit import MMDiT, velocity_of
from flashjax.models.text import encode_text
from flashjax.quantize.grid import on_grid
from flashjax.stages.quantize_student import Student
from flashjax.train.loop import progress
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import TrainState, init_state
from flashjax.train.tune import make_tune_step
from flashjax.types import Cond, InputError, Metrics

BATCH = 8  # captions a step, each at every step of the student
OPTIMISER = OptimiserConfig(learning_rate=2e-5, warmup_steps=10)
EMA_DECAY = 0.9  # weights at the edge between two codes go to and fro


def tuned(
    student: Student, tensors: Tensors, captions: list[str], *, scheme: str, steps: int, seed: int
) -> Tensors:
    """The tensors (SAI's names) after `steps` of fine-tuning on the grid of `scheme`, in float32.

    The captions are all the data: states are the 16-bit student's own. InputError for fewer
    captions than a batch takes.
    """
    if len(captions) < BATCH:
        raise InputError(f"--tune takes {BATCH} captions a step: --calibrate has {len(captions)}")
    pipeline = student.pipeline
    config, teacher = pipeline.transformer_config, pipeline.transformer
    tx = make_optimiser(_decaying(steps), steps)
    velocity = velocity_of(MMDiT(config))
    step = make_tune_step(velocity, tx, student.sigmas, ema_decay=EMA_DECAY)
    advance = jax.jit(step)
    rounded = on_grid(tensors, config, scheme=scheme)

    def train(state: TrainState, batch: tuple[Array, Cond]) -> tuple[TrainState, Metrics]:
        return advance(state, rounded(state.learner.params), teacher, *batch)

    state = init_state(trees.cast(teacher, jnp.float32), tx)
    data = batches(student, captions, seed=seed)
    with progress("tune", start=0, stop=steps) as show:
        for number, batch in zip(range(1, steps + 1), data, strict=False):  # data never end
            state, metrics = train(state, batch)
            show(number, state, metrics)
    return transformer_to(state.learner.ema, config, "sai")


def batches(student: Student, captions: list[str], *, seed: int) -> Iterator[tuple[Array, Cond]]:
    """Noise and captions without end, drawn anew for every step."""
    pipeline, random = student.pipeline, np.random.default_rng(seed)
    encode = jax.jit(lambda text, tokens: encode_text(pipeline.text_config, text, tokens))
    tokens = student.tokenizer(captions)
    while True:
        chosen = random.choice(len(captions), BATCH, replace=False)
        noise = jnp.asarray(student.noise(int(random.integers(2**31)), BATCH))
        part = jax.tree.map(operator.itemgetter(chosen), tokens)
        yield noise, encode(pipeline.text, part)


def _decaying(steps: int) -> OptimiserConfig:
    """A cosine over the last three quarters."""
    return OptimiserConfig(
        learning_rate=OPTIMISER.learning_rate,
        warmup_steps=min(OPTIMISER.warmup_steps, steps // 4),
        decay_steps=3 * steps // 4,
    )
