"""The reader reads: decoding inverts its targets, and the shipped one is good enough to judge."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flashjax
from flashjax.tasks.digit_scenes.alignment import ATTRIBUTES, alignment
from flashjax.tasks.digit_scenes.reader import Reader, ReaderOutput
from flashjax.tasks.digit_scenes.reading import (
    _reading,
    load_reader,
    read,
    reader_features,
    reading_loss,
    save_reader,
    to_model,
    train_reader,
    truth_of,
    validate_reader,
    weather,
)
from flashjax.tasks.digit_scenes.scenes import compose, wanted_of
from flashjax.types import InputError

SHIPPED = Path(flashjax.__file__).parent / "assets/nano/reader"
SCENES = [compose(0, index, "train").scene for index in range(40)]


def ideal_output(scenes) -> ReaderOutput:
    """What a faultless net would answer, written digit by digit and not with the targets' code."""
    count = len(scenes)
    objectness, offset = np.full((count, 8, 8), -20.0), np.zeros((count, 8, 8, 2))
    value, colour = np.zeros((count, 8, 8, 10)), np.zeros((count, 8, 8, 6))
    background = np.zeros((count, 4))
    for n, scene in enumerate(scenes):
        background[n, ["white", "gray", "black", "brown"].index(scene.background)] = 50
        for row in range(8):
            for column in range(8):
                x, y = 8 * column + 4, 8 * row + 4
                digit = min(scene.digits, key=lambda d, x=x, y=y: (d.x - x) ** 2 + (d.y - y) ** 2)
                right, down = (digit.x - x) / 8, (digit.y - y) / 8
                bump = np.exp(-(right**2 + down**2) / (2 * 0.8**2))
                objectness[n, row, column] = np.log(bump / (1 - bump + 1e-12) + 1e-12)
                offset[n, row, column] = right, down
                value[n, row, column, digit.value] = np.log(0.91 / 0.01)  # labels are smoothed
                palette = ["red", "green", "blue", "yellow", "pink", "cyan"]
                colour[n, row, column, palette.index(digit.colour)] = 50
    arrays = (objectness, value, colour, offset, background, np.zeros((count, 128)))
    return ReaderOutput(*(array.astype(np.float32) for array in arrays))


def test_an_ideal_output_is_decoded_to_its_scene():
    output = ideal_output(SCENES)
    readings = [_reading(jax.tree.map(lambda a, n=n: a[n], output)) for n in range(len(SCENES))]
    shares = alignment(readings, [wanted_of(scene) for scene in SCENES])
    assert shares == dict.fromkeys(("whole", *ATTRIBUTES), 1.0)
    for reading, scene in zip(readings, SCENES, strict=True):
        for digit in scene.digits:
            gaps = [np.hypot(f.x - digit.x, f.y - digit.y) for f in reading.digits]
            assert min(gaps) < 1e-3


def test_every_part_of_the_loss_is_least_at_the_ideal_output():
    ideal, truth = ideal_output(SCENES), truth_of(SCENES)
    loss = jax.jit(reading_loss)
    _, best = loss(ideal, truth)
    for name in ("colour", "offset", "background"):
        assert float(best[f"reader/{name}"]) < 1e-6
        spoilt = ideal.replace(**{name: jnp.roll(getattr(ideal, name), 1, axis=-1)})
        assert float(loss(spoilt, truth)[1][f"reader/{name}"]) > 0.1
    for name in ("objectness", "value"):  # their least is not zero, for their targets are soft
        for scale in (0.7, 1.3):
            spoilt = ideal.replace(**{name: getattr(ideal, name) * scale})
            part = f"reader/{name}"
            assert float(loss(spoilt, truth)[1][part]) > float(best[part]) + 1e-3


def test_weather_keeps_the_range_and_is_never_the_same_twice():
    images = to_model(np.stack([compose(0, index, "train").image for index in range(4)]))
    first, second = (weather(images, jax.random.key(seed)) for seed in (0, 1))
    assert float(jnp.abs(first).max()) <= 1 and float(jnp.abs(first - second).max()) > 0.05
    assert float(jnp.abs(first - images).mean()) < 0.25


def test_training_moves_every_weight_and_logs_every_step():
    seen = []
    params = train_reader(2, 2, seed=0, log=lambda step, metrics: seen.append((step, metrics)))
    assert [step for step, _ in seen] == [0, 1]
    assert all(np.isfinite(float(value)) for _, metrics in seen for value in metrics.values())
    start = jax.jit(Reader().init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, start)
    assert all(jax.tree.leaves(moved))


def test_the_shipped_reader_gets_97_percent_of_attributes_of_unseen_scenes():
    shares = validate_reader(load_reader(SHIPPED), 2000, seed=98)
    assert min(shares.values()) >= 0.97, shares


def test_pictures_are_read_alike_whatever_their_number():
    params = load_reader(SHIPPED)
    images = to_model(np.stack([compose(6, index, "validation").image for index in range(127)]))
    several, single = read(params, images), read(params, images[126:])
    assert len(several) == 127 and several[126:] == single
    assert reader_features(params, images).shape == (127, 128)


def test_weights_survive_saving(tmp_path):
    params = load_reader(SHIPPED)
    save_reader(params, tmp_path, card={"steps": 0})
    assert jax.tree.all(jax.tree.map(np.array_equal, params, load_reader(tmp_path)))


def test_missing_damaged_or_foreign_weights_are_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_reader(tmp_path)
    path = tmp_path / "reader.safetensors"
    whole = (SHIPPED / "reader.safetensors").read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="cannot read"):
        load_reader(tmp_path)
    save_reader({"params": {"stem": np.zeros((2, 2))}}, tmp_path, card={})
    with pytest.raises(InputError, match="another reader"):
        load_reader(tmp_path)
