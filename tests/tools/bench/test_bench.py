"""`bench`: what stands in for weights, and which chip a device is taken for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.cli import main
from flashjax.parallel.mesh import make_mesh
from flashjax.tools.bench.steps import find_chip, iteration, random_arguments
from flashjax.types import InputError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["steps"], "give --config FILE"),
        (["steps", "--config", "c.py", "--programs", "text"], "runs guide, student, critic"),
        (["convert"], "say where with --workdir DIR"),
    ],
)
def test_what_a_bench_needs_is_asked_for_in_one_line(flags, message, capsys) -> None:
    assert main(["bench", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize(
    ("name", "kind", "chip"),
    [(None, "NVIDIA H200", "h200"), (None, "cpu", "cpu"), (None, "TPU v6 lite", "v6e")],
)
def test_a_device_is_taken_for_the_chip_that_it_is_called(name, kind, chip) -> None:
    assert find_chip(name, kind).name == chip


def test_a_device_of_no_known_name_is_asked_about() -> None:
    with pytest.raises(InputError, match="called TPU v9: give --chip of v4"):
        find_chip(None, "TPU v9")


def test_an_iteration_is_told_where_both_of_its_steps_are(capsys) -> None:
    rows = [{"program": "student", "seconds": [1.0, 3.0]}, {"program": "critic", "seconds": [0.5]}]
    assert iteration(rows, 5) == {"iteration_seconds": 4.5}
    assert "and 5 of the critic's: 4.500 s" in capsys.readouterr().out
    assert iteration(rows[:1], 5) == {}


def test_weights_are_random_and_optimisers_zero_where_they_will_lie() -> None:
    """Zeros would flatter a GPU, whose clock follows its power; a variance must not be negative."""
    whole = jax.sharding.NamedSharding(make_mesh({}), jax.sharding.PartitionSpec())

    def leaf(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    state = {"params": {"w": leaf(64, 32, dtype=jnp.bfloat16)}, "opt": {"w": leaf(64, 32)}}
    shapes = ({"learner": state, "step": leaf(dtype=jnp.int32)}, {"span": leaf(2, dtype=jnp.int32)})
    (made, frozen) = random_arguments(shapes, student_steps=4)
    weights = np.asarray(made["learner"]["params"]["w"], np.float32)
    assert made["learner"]["params"]["w"].dtype == jnp.bfloat16
    assert abs(weights.mean()) < 0.002 and 0.008 < weights.std() < 0.015
    assert len(np.unique(weights[0])) > 16 and len(np.unique(weights[:, 0])) > 16
    assert not np.any(made["learner"]["opt"]["w"]) and made["step"] == 0
    assert frozen["span"].tolist() == [0, 4]
