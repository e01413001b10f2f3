"""Named trees: round trip, comparison, digest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashjax import trees
from flashjax.types import InputError

TREE = {"a": {"kernel": np.ones((2, 3), np.float32), "steps": np.arange(4)}, "b": np.zeros(5)}


def test_flatten_and_unflatten_are_inverse():
    named = trees.flatten(TREE)
    assert list(named) == ["a/kernel", "a/steps", "b"]
    jax.tree.map(np.testing.assert_array_equal, trees.unflatten(named), TREE)


def test_optimiser_paths_end_with_the_path_of_the_parameter():
    paths = trees.flatten(optax.adam(1e-3).init(TREE))
    assert "0/mu/a/kernel" in paths and "0/count" in paths


def test_cast_leaves_integers_alone():
    got = trees.cast(TREE, jnp.bfloat16)
    assert got["a"]["kernel"].dtype == jnp.bfloat16 and got["a"]["steps"].dtype == np.int64


def test_count_works_on_abstract_trees():
    assert trees.count(jax.eval_shape(lambda: TREE)) == trees.count(TREE) == 15


def test_check_same_names_every_problem_in_one_line():
    got = {"a": {"kernel": np.ones((3, 2)), "extra": np.ones(1)}, "b": np.zeros(5)}
    with pytest.raises(InputError) as caught:
        trees.check_same(TREE, got, where="teacher.safetensors")
    message = str(caught.value)
    assert "teacher.safetensors" in message and "\n" not in message
    assert "missing a/steps (4,)" in message and "unexpected a/extra" in message
    assert "a/kernel has shape (3, 2), not (2, 3)" in message


def test_check_same_stays_one_short_line_however_many_are_wrong():
    many = {f"w{i:03d}": np.ones(1) for i in range(100)}
    with pytest.raises(InputError) as caught:
        trees.check_same(many, {f"v{i:03d}": np.ones(1) for i in range(70)}, where="file")
    message = str(caught.value)
    assert "missing w000 (1,), w001 (1,), w002 (1,), w003 (1,), w004 (1,), and 95 more" in message
    assert "unexpected v000, v001, v002, v003, v004, and 65 more" in message
    assert len(message) < 300


def test_a_name_of_any_length_leaves_a_message_short():
    long = {"w" * 100_000 + str(i): np.ones(1) for i in range(9)}
    with pytest.raises(InputError) as caught:
        trees.check_same({}, long, where="file")
    assert f"{80 * 'w'}...{79 * 'w'}0, " in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_digest_sees_names_values_and_dtypes():
    same = {"b": TREE["b"].copy(), "a": dict(TREE["a"])}
    renamed = {"a": TREE["a"], "c": TREE["b"]}
    changed = {"a": TREE["a"], "b": TREE["b"] + 1e-9}
    digests = {trees.digest(tree) for tree in (renamed, changed, trees.cast(TREE, jnp.bfloat16))}
    assert trees.digest(same) == trees.digest(TREE)
    assert len(digests | {trees.digest(TREE)}) == 4
