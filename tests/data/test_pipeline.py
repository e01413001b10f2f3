"""The data pipeline: every sample once per epoch, resumable, laid out on the mesh."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flashjax.data.pipeline import batches, to_mesh
from flashjax.parallel.mesh import make_mesh
from flashjax.types import Batch, InputError, Tokens

NAMES = ("clip_l", "clip_g", "t5")


def _batches(number=10, batch_size=4, seed=0):
    latents = np.arange(number, dtype=np.float32).reshape(-1, 1, 1, 1)
    tokens = Tokens(*(np.arange(number, dtype=np.int32)[:, None] for _ in NAMES))
    return batches(Batch(latents, tokens), batch_size=batch_size, seed=seed)


def _order(iterator, steps):
    return np.concatenate([next(iterator).latents.ravel() for _ in range(steps)])


def test_each_epoch_has_every_sample_once_in_a_new_order():
    order = _order(_batches(batch_size=5), 4).reshape(2, 10)
    assert (np.sort(order) == np.arange(10)).all() and (order[0] != order[1]).any()


def test_tokens_stay_with_their_latents():
    batch = next(_batches())
    for name in NAMES:
        np.testing.assert_array_equal(getattr(batch.tokens, name)[:, 0], batch.latents.ravel())
        assert getattr(batch.tokens, name).dtype == np.int32


def test_a_resumed_run_sees_the_same_next_batch():
    first = _batches()
    _order(first, 7)
    state = json.loads(json.dumps(first.get_state()))
    resumed = _batches()
    resumed.set_state(state)
    np.testing.assert_array_equal(_order(first, 5), _order(resumed, 5))


def test_the_seed_is_the_order():
    assert (_order(_batches(), 5) == _order(_batches(), 5)).all()
    assert (_order(_batches(), 5) != _order(_batches(seed=1), 5)).any()


def test_batches_may_be_larger_than_the_data():
    assert next(_batches(number=3, batch_size=8)).latents.shape == (8, 1, 1, 1)


def test_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    batch = next(_batches(batch_size=8))
    placed = to_mesh(batch, mesh)
    assert placed.latents.sharding.spec == P(("data", "fsdp"))
    jax.tree.map(np.testing.assert_array_equal, placed, batch)


def test_wrong_sizes_are_named():
    with pytest.raises(InputError, match="batch_size 6 does not split over data x fsdp = 4"):
        to_mesh(next(_batches(batch_size=6)), make_mesh({"fsdp": 4}))
    with pytest.raises(InputError, match="'t5': 2"):
        batches({"latents": np.ones((3, 1)), "t5": np.ones((2, 1))}, batch_size=1, seed=0)
