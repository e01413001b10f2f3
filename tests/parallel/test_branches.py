"""Branches in one program: each sees only itself, on devices of its own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flashjax.parallel.branches import (
    branch_shardings,
    check_isolated,
    over_branches,
    stack,
    unstack,
)
from flashjax.parallel.mesh import make_mesh


def step(state, span, frozen, batch, key):
    """A toy step with a reduction over the batch, which is sharded within a branch."""
    first = span[0].astype(jnp.float32)
    draw = jax.random.normal(key, ())
    return {"w": state["w"] + first + frozen * batch.mean()}, {"loss": first, "draw": draw}


@pytest.fixture
def mesh():
    return make_mesh(dict(branch=2, data=1, fsdp=4, context=1, tensor=1))


def branched(mesh):
    state = stack([{"w": jnp.zeros(8)}, {"w": jnp.ones(8)}])
    one = {"w": NamedSharding(mesh, PartitionSpec("fsdp"))}
    state = jax.device_put(state, branch_shardings(one, mesh))
    span = jnp.array([[0, 2], [2, 2]], jnp.int32)
    batch = jax.device_put(jnp.arange(16.0), NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    return state, span, jnp.float32(2.0), batch, jax.random.key(0)


def test_every_branch_gets_its_own_state_and_span(mesh):
    state, metrics = jax.jit(over_branches(step, mesh))(*branched(mesh))
    np.testing.assert_allclose(state["w"][0], 0 + 0 + 2 * 7.5)
    np.testing.assert_allclose(state["w"][1], 1 + 2 + 2 * 7.5)
    np.testing.assert_allclose(metrics["loss"], [0, 2])


def test_branches_draw_different_noise(mesh):
    _, metrics = jax.jit(over_branches(step, mesh))(*branched(mesh))
    assert metrics["draw"][0] != metrics["draw"][1]


def test_a_branch_in_a_job_of_its_own_computes_the_same(mesh):
    state, span, *shared = branched(mesh)
    together, metrics = jax.jit(over_branches(step, mesh))(state, span, *shared)
    alone = make_mesh({"fsdp": 4})
    layout = {"w": NamedSharding(alone, PartitionSpec("branch", "fsdp"))}
    for number in (0, 1):
        one = jax.device_put({"w": np.asarray(state["w"])[number : number + 1]}, layout)
        rest = jax.device_put(jax.device_get(shared[:2]), NamedSharding(alone, PartitionSpec()))
        job = jax.jit(over_branches(step, alone, first=number))
        got, said = job(one, np.asarray(span)[number : number + 1], *rest, jax.random.key(0))
        np.testing.assert_array_equal(np.asarray(got["w"])[0], np.asarray(together["w"])[number])
        assert float(said["draw"][0]) == float(metrics["draw"][number])


def test_no_collective_crosses_a_branch(mesh):
    arguments = branched(mesh)
    text = jax.jit(over_branches(step, mesh)).lower(*arguments).compile().as_text()
    groups = re.findall(r"replica_groups=\{(\{[^=]*?\})\}", text)
    iota = re.findall(r"replica_groups=\[(\d+),(\d+)\]<=\[8\]", text)
    assert groups or iota  # there is a reduction, or this test shows nothing
    for group in re.findall(r"\{([\d,]+)\}", " ".join(groups)):
        members = [int(member) for member in group.split(",")]
        assert {member // 4 for member in members} in ({0}, {1})
    assert all(int(size) <= 4 for _, size in iota)


def test_a_program_that_joins_branches_is_refused(mesh):
    arguments = branched(mesh)
    check_isolated(jax.jit(over_branches(step, mesh)).lower(*arguments).compile().as_text(), mesh)
    state = arguments[0]
    joined = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf.sum(0), state))
    with pytest.raises(RuntimeError, match=r"joins its branches: .*all-reduce over .*branch"):
        check_isolated(joined.lower(state).compile().as_text(), mesh)


def test_a_branch_lies_on_devices_of_its_own(mesh):
    state, *_ = branched(mesh)
    halves = {shard.device: shard.index[0].start or 0 for shard in state["w"].addressable_shards}
    devices = mesh.devices.reshape(2, 4)
    assert all(halves[device] == 0 for device in devices[0])
    assert all(halves[device] == 1 for device in devices[1])


def test_unstack_is_the_inverse_of_stack(mesh):
    state, *_ = branched(mesh)
    low, high = unstack(state, mesh)
    assert low["w"].sharding.spec == PartitionSpec("fsdp")  # no device holds a whole branch
    np.testing.assert_array_equal(low["w"], np.zeros(8))
    np.testing.assert_array_equal(high["w"], np.ones(8))
