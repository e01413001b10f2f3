"""Training, using, keeping and checking the reader, which measures what a picture shows."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit, softmax

from flashjax.tasks.digit_scenes.alignment import Found, Reading, alignment
from flashjax.tasks.digit_scenes.reader import CELLS, Reader, ReaderOutput
from flashjax.tasks.digit_scenes.scenes import BACKGROUNDS, COLOURS, SIDE, Scene, compose, wanted_of
from flashjax.types import InputError, Metrics, Params

PIXELS = SIDE / CELLS  # along each side of a cell
SPREAD = 0.8  # cells: how far round a digit's centre the target of objectness reaches
SMOOTHING = 0.1  # of the digit classes: some of the 1,437 training scans are ambiguous
THRESHOLD = 0.4  # objectness (0..1) above which a local peak is a digit
JUDGED = 4000  # validation scenes that a new reader is checked on
CHUNK = 125  # pictures read at a time
log = logging.getLogger(__name__)

WEIGHTS, CARD = "reader.safetensors", "reader.json"


@flax.struct.dataclass
class Truth:
    """What the pictures of a batch show; the second digit of a one-digit scene is masked out.

    `centre` "b 2 2" (x, y in cells), `value` and `colour` "b 2", `present` "b 2" (0 or 1),
    `background` "b".
    """

    centre: jax.Array
    value: jax.Array
    colour: jax.Array
    present: jax.Array
    background: jax.Array


def truth_of(scenes: list[Scene]) -> Truth:
    """The targets of a batch of scenes."""
    count = len(scenes)
    centre, present = np.zeros((count, 2, 2), np.float32), np.zeros((count, 2), np.float32)
    value, colour = np.zeros((count, 2), np.int32), np.zeros((count, 2), np.int32)
    for row, scene in enumerate(scenes):
        for slot, digit in enumerate(scene.digits):
            centre[row, slot] = digit.x / PIXELS, digit.y / PIXELS
            value[row, slot], colour[row, slot] = digit.value, COLOURS.index(digit.colour)
            present[row, slot] = 1
    background = np.array([BACKGROUNDS.index(scene.background) for scene in scenes], np.int32)
    return Truth(*map(jnp.asarray, (centre, value, colour, present, background)))


_forward: Callable[[Params, jax.Array], ReaderOutput] = jax.jit(Reader().apply)


def reading_loss(output: ReaderOutput, truth: Truth) -> tuple[jax.Array, Metrics]:
    """The loss of a batch (mean over pictures) and its parts.

    Objectness is fitted to a bump of width SPREAD round each centre; class, colour and offset
    are asked of each cell for the digit nearest to it, weighted by that digit's bump. All are
    divided by the mass of the bumps, so that two digits weigh no more than one.
    """
    middles = jnp.arange(CELLS) + 0.5
    cell = jnp.stack(jnp.meshgrid(middles, middles), -1)  # "8 8 2": x, y
    toward = truth.centre[:, None, None] - cell[None, :, :, None]  # "b 8 8 2digits 2"
    bumps = jnp.exp(-jnp.sum(toward**2, -1) / (2 * SPREAD**2)) * truth.present[:, None, None]
    bump, nearest = bumps.max(-1), bumps.argmax(-1)
    of_nearest = jax.vmap(lambda labels, which: labels[which])
    offset = jnp.take_along_axis(toward, nearest[..., None, None], 3)[..., 0, :]

    def over_bumps(per_cell: jax.Array) -> jax.Array:
        return per_cell.sum((1, 2)) / bump.sum((1, 2))

    cross = optax.softmax_cross_entropy_with_integer_labels

    def smooth(logits: jax.Array, labels: jax.Array) -> jax.Array:
        soft = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), SMOOTHING)
        return optax.softmax_cross_entropy(logits, soft)

    parts = {
        "objectness": over_bumps(optax.sigmoid_binary_cross_entropy(output.objectness, bump)),
        "value": over_bumps(bump * smooth(output.value, of_nearest(truth.value, nearest))),
        "colour": over_bumps(bump * cross(output.colour, of_nearest(truth.colour, nearest))),
        "offset": over_bumps(bump * jnp.sum((output.offset - offset) ** 2, -1)),
        "background": cross(output.background, truth.background),
    }
    metrics = {f"reader/{name}": part.mean() for name, part in parts.items()}
    return sum(metrics.values(), jnp.zeros(())), metrics


def to_model(images: np.ndarray | jax.Array) -> jax.Array:
    """Pictures uint8 0..255 -> float32 in [-1, 1]."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def weather(images: jax.Array, key: jax.Array) -> jax.Array:
    """Blur, noise and contrast, each of random strength: generated pictures are not crisp."""
    blur_key, level_key, noise_key, gain_key = jax.random.split(key, 4)
    each = (len(images), 1, 1, 1)
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    blurred = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    images += jax.random.uniform(blur_key, each) * (blurred - images)
    level = jax.random.uniform(level_key, each, maxval=0.12)
    noisy = images + level * jax.random.normal(noise_key, images.shape)
    return jnp.clip(noisy * jax.random.uniform(gain_key, each, minval=0.85, maxval=1.1), -1, 1)


def train_reader(
    steps: int, batch: int, *, seed: int, log: Callable[[int, Metrics], None]
) -> Params:
    """Train a reader on `steps` (2 or more) batches of train scenes, no scene seen twice.

    `log(step, metrics)` is called after every step; metrics stay on the device until read.
    """
    key = jax.random.key(seed)
    params = jax.jit(Reader().init)(key, jnp.zeros((1, SIDE, SIDE, 3)))
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 20 + 1, steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.1))
    opt = tx.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(
        params: Params, opt: optax.OptState, images: jax.Array, truth: Truth, key: jax.Array
    ) -> tuple[Params, optax.OptState, Metrics]:
        def loss(params: Params) -> tuple[jax.Array, Metrics]:
            return reading_loss(_forward(params, weather(to_model(images), key)), truth)

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, metrics

    for step, (images, truth) in enumerate(_batches(steps, batch, seed)):
        params, opt, metrics = update(params, opt, images, truth, jax.random.fold_in(key, step))
        log(step, metrics)
    return params


def _batches(steps: int, batch: int, seed: int) -> Iterator[tuple[np.ndarray, Truth]]:
    for step in range(steps):
        examples = [compose(seed, step * batch + i, "train") for i in range(batch)]
        yield np.stack([e.image for e in examples]), truth_of([e.scene for e in examples])


def read(params: Params, images: np.ndarray | jax.Array) -> list[Reading]:
    """What each picture shows; images "b 64 64 3" in [-1, 1]."""
    output = _apply(params, images)
    return [_reading(jax.tree.map(lambda leaf, n=n: leaf[n], output)) for n in range(len(images))]


def reader_features(params: Params, images: np.ndarray | jax.Array) -> np.ndarray:
    """The features "b 128" of pictures "b 64 64 3" in [-1, 1], for the Fréchet distance."""
    return np.asarray(_apply(params, images).features)


def _apply(params: Params, images: np.ndarray | jax.Array) -> ReaderOutput:
    """The net's output on the host; pictures go through in chunks, the last one padded."""
    images = np.asarray(images, np.float32)
    parts = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        padding = [(0, CHUNK - len(chunk)), (0, 0), (0, 0), (0, 0)]
        parts.append(jax.device_get(_forward(params, jnp.asarray(np.pad(chunk, padding)))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(images)], *parts)


def _reading(output: ReaderOutput) -> Reading:
    """Decode one picture's output: every local peak of objectness is a digit."""
    strength = expit(output.objectness)
    padded = np.pad(strength, 1)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max((2, 3))
    cells = np.argwhere((strength == around) & (strength > THRESHOLD)).tolist()
    peaks = sorted(cells, key=lambda cell: -strength[cell[0], cell[1]])
    digits = tuple(_found(output, row, column) for row, column in peaks)
    return Reading(digits=digits, background=BACKGROUNDS[output.background.argmax()])


def _found(output: ReaderOutput, row: int, column: int) -> Found:
    right, down = output.offset[row, column]
    beliefs = softmax(output.value[row, column])
    return Found(
        value=int(beliefs.argmax()),
        colour=COLOURS[output.colour[row, column].argmax()],
        x=float((column + 0.5 + right) * PIXELS),
        y=float((row + 0.5 + down) * PIXELS),
        belief=float(beliefs.max()),
    )


def validate_reader(params: Params, count: int, *, seed: int) -> dict[str, float]:
    """How often the reader is right on `count` real scenes of the validation split.

    Shares in 0..1: "whole" and each attribute, as `alignment` judges them.
    """
    examples = [compose(seed, index, "validation") for index in range(count)]
    readings = read(params, to_model(np.stack([e.image for e in examples])))
    return alignment(readings, [wanted_of(e.scene) for e in examples])


def log_reader(step: int, metrics: Metrics) -> None:
    """Logs the reader's loss, the sum of its parts, now and then."""
    if step % 100 == 0:
        log.info("reader %d  loss %.4f", step, float(sum(metrics.values())))


def teach_reader(
    folder: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    command: str,
) -> dict[str, float]:
    """Train a reader, check it on JUDGED validation scenes, and keep it with its card."""
    params = train_reader(steps, batch, seed=seed, log=log_reader)
    accuracy = validate_reader(params, JUDGED, seed=seed + 1)
    card = {"command": command, "seed": seed, "steps": steps, "batch": batch}
    card |= {"validation_scenes": JUDGED, "validation_seed": seed + 1, "accuracy": accuracy}
    save_reader(params, folder, card=card)
    return accuracy


def save_reader(params: Params, folder: Path, *, card: Mapping[str, Any]) -> None:
    """Write the weights (float32 safetensors) and the card: accuracy, seed, steps, command."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = flatten_dict(jax.device_get(params), sep="/")
    save_file({name: np.asarray(leaf, np.float32) for name, leaf in flat.items()}, folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def load_card(folder: Path) -> dict[str, Any]:
    """The card that `save_reader` wrote. InputError if it is missing or damaged."""
    path = folder / CARD
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise InputError(f"reader: cannot read {path} ({error}); run `flashjax teach`") from error


def load_reader(folder: Path) -> Params:
    """The weights that `save_reader` wrote. Raises InputError if they are missing or damaged."""
    path = folder / WEIGHTS
    try:
        flat = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(f"reader: cannot read {path} ({error}); run `flashjax teach`") from error
    params = unflatten_dict(flat, sep="/")
    expected = jax.eval_shape(Reader().init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, expected):
        raise InputError(f"reader: {path} is of another reader; run `flashjax teach`")
    return params
