"""The data pipeline: every sample once per epoch, resumable, laid out on the mesh."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flashjax.data.pipeline import Ahead, Together, batches, to_mesh
from flashjax.parallel.mesh import make_mesh
from flashjax.types import Batch, InputError, Tokens

NAMES = ("clip_l", "clip_g", "t5")


def _batches(number=10, batch_size=4, seed=0):
    latents = np.arange(number, dtype=np.float32).reshape(-1, 1, 1, 1)
    tokens = Tokens(*(np.arange(number, dtype=np.int32)[:, None] for _ in NAMES))
    return batches(Batch(latents, tokens), batch_size=batch_size, seed=seed)


def _order(iterator, steps):
    return np.concatenate([np.ravel(next(iterator).latents) for _ in range(steps)])


def test_each_epoch_has_every_sample_once_in_a_new_order():
    order = _order(_batches(batch_size=5), 4).reshape(2, 10)
    assert (np.sort(order) == np.arange(10)).all() and (order[0] != order[1]).any()


def test_tokens_stay_with_their_latents():
    batch = next(_batches())
    for name in NAMES:
        ids = np.asarray(getattr(batch.tokens, name))
        np.testing.assert_array_equal(ids[:, 0], np.ravel(batch.latents))
        assert ids.dtype == np.int32


def test_a_resumed_run_sees_the_same_next_batch():
    first = _batches()
    _order(first, 7)
    state = json.loads(json.dumps(first.get_state()))
    resumed = _batches()
    resumed.set_state(state)
    np.testing.assert_array_equal(_order(first, 5), _order(resumed, 5))


def test_batches_of_one_step_are_the_next_ones_and_a_resumed_run_sees_those_that_follow():
    """Of a source that is one batch ahead, too: what waited is drawn again."""

    def together():
        return Together(Ahead(_batches(), lambda batch: np.ravel(batch.latents)), 3)

    first, one_by_one = together(), _batches()
    for _ in range(2):
        got = next(first)
        assert len(got) == 3
        told = [rows for _, rows in first.chosen()]
        assert [list(batch) for batch in got] == told  # latents are their numbers
        for batch in got:
            np.testing.assert_array_equal(batch, np.ravel(next(one_by_one).latents))
    resumed = together()
    resumed.set_state(json.loads(json.dumps(first.get_state())))
    for _ in range(2):
        np.testing.assert_array_equal(next(resumed), next(first))


@pytest.mark.parametrize("sizes", [(512, 512), (600, 300), (400, 400, 400)])
def test_who_takes_every_sixth_batch_sees_every_bucket_as_often_as_the_others_do(sizes):
    """A student and the five updates of its critic: in a regular order it saw one shape alone."""
    found = batches(*({"x": np.zeros((size, 1))} for size in sizes), batch_size=8, seed=0)
    drawn = np.array([(next(found), found.chosen()[0][0])[1] for _ in range(3_000)])
    for taken in (drawn[5::6], np.delete(drawn, np.s_[5::6])):
        shares = np.bincount(taken, minlength=len(sizes)) / len(taken)
        np.testing.assert_allclose(shares, np.array(sizes) / sum(sizes), atol=0.06)


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


def test_the_position_of_batches_put_ahead_is_that_of_the_last_one_taken():
    """What waits on the devices at a stop is drawn again."""
    straight = _order(_batches(), 7)
    ahead = Ahead(_batches(), lambda batch: batch)
    start = ahead.get_state()
    got = _order(ahead, 3)
    state = json.loads(json.dumps(ahead.get_state()))
    _order(ahead, 2)
    ahead.set_state(state)
    np.testing.assert_array_equal(np.concatenate([got, _order(ahead, 4)]), straight)
    ahead.set_state(start)
    np.testing.assert_array_equal(_order(ahead, 7), straight)


def test_the_next_batch_is_put_before_it_is_asked_for():
    put = []
    ahead = Ahead(_batches(), lambda batch: put.append(batch) or batch)
    assert next(ahead) is put[0] and len(put) == 2


class Read:
    """An array that notes the rows that are read of it."""

    def __init__(self, array):
        self.array, self.shape, self.rows = array, array.shape, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.rows += rows.tolist()
        return self.array[rows]


def test_a_process_reads_the_rows_of_its_own_devices_only():
    source = Read(np.arange(16.0))
    batch = next(batches(source, batch_size=8, seed=3))
    want = np.asarray(next(batches(source.array, batch_size=8, seed=3)))
    assert source.rows == []  # drawing a batch reads nothing
    np.testing.assert_array_equal(batch[slice(4, 8),], want[4:])  # as the second of two asks
    assert source.rows == want[4:].tolist()
