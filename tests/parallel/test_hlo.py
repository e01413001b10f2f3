"""Reading compiled programs: how often a collective runs, along which axes, how many bytes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax.parallel import hlo
from flashjax.parallel.mesh import make_mesh

LAYERS, BATCH, WIDTH = 5, 16, 32


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": 2, "fsdp": 4})


def compiled(mesh, trips=None):
    """Layers whose weights are gathered over fsdp one by one, and a sum over data at the end."""

    def layer(x, w):
        w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P()))
        return jnp.sin(x @ w), None

    def scanned(x, weights):
        return jnp.sum(jax.lax.scan(layer, x, weights)[0])

    def rolled(x, weights, trips):
        return jnp.sum(jax.lax.fori_loop(0, trips, lambda i, x: layer(x, weights[i])[0], x))

    x = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    weights = jax.ShapeDtypeStruct(
        (LAYERS, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp"))
    )
    if trips is None:
        return jax.jit(scanned).lower(x, weights).compile().as_text()
    return jax.jit(rolled).lower(x, weights, jnp.int32(3)).compile().as_text()


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_runs(mesh):
    found = {c.kind: c for c in hlo.collectives(compiled(mesh), mesh)}
    gather = found["all-gather"]
    assert (gather.axes, gather.dtype, gather.runs) == (("fsdp",), "f32", LAYERS)
    assert gather.bytes == LAYERS * WIDTH * WIDTH * 4 * 3 / 4  # what the three others bring
    assert found["all-reduce"].axes == ("data",) and found["all-reduce"].runs == 1
    assert found["all-reduce"].bytes == 4  # one number there and back


def test_what_leaves_an_island_goes_over_the_slow_network(mesh):
    """Of simulated devices each four are a host or a slice: the sum over data leaves it."""
    text = compiled(mesh)
    for island, crossing in ((0, {False}), (4, {True}), (8, {False})):
        found = {c.kind: c.crosses_slices for c in hlo.collectives(text, mesh, island=island)}
        assert {found["all-reduce"]} == crossing and not found["all-gather"]


def test_a_loop_of_unknown_length_takes_the_mean_that_it_is_given(mesh):
    text = compiled(mesh, trips=3)
    assert hlo.loops(text) == {"unknown": 1}
    found = {c.kind: c for c in hlo.collectives(text, mesh, unknown_trips=1.5)}
    assert found["all-gather"].runs == 1.5


@pytest.mark.parametrize(
    ("groups", "members", "axes"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", [[0, 1, 2, 3], [4, 5, 6, 7]], ("fsdp",)),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]], ("fsdp",)),
        (
            "replica_groups=[4,2]<=[2,4]T(1,0)",
            [[0, 4], [1, 5], [2, 6], [3, 7]],
            ("data",),
        ),
        ("source_target_pairs={{0,5},{5,0}}", [[0, 5], [5, 0]], ("data", "fsdp")),
        (
            "replica_groups=mesh['x'=1,'y'=4,'z'=2], device_ids=([2,4]T(1,0)) {'y'}, channel",
            [[0, 1, 2, 3], [4, 5, 6, 7]],
            ("fsdp",),
        ),
        (
            "replica_groups=mesh['x'=2,'y'=4] {'x','y':(1)2}",
            [[0, 2, 4, 6], [1, 3, 5, 7]],
            ("data", "fsdp"),
        ),
        ("replica_groups={}", [[*range(8)]], ("data", "fsdp")),
    ],
)
def test_groups_are_read_in_every_spelling(mesh, groups, members, axes):
    assert hlo.members(f"all-gather(x), {groups}, dims", 8) == members
    assert hlo.axes_of(members, mesh) == axes


TPU = """
%all-reduce-scatter (input: bf16[8,8]) -> bf16[8,2] {
  %all-reduce.1 = bf16[8,8]{0,1} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %dynamic-slice.1 = bf16[8,2]{0,1} dynamic-slice(%all-reduce.1, %a, %b)
}

%counts (p: (s32[], bf16[8,2])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(23)
  %gte = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%gte, %constant.7), direction=LT, metadata={}
}

%body (p.1: (s32[], bf16[8,2])) -> (s32[], bf16[8,2]) {
  %fusion.1 = bf16[8,2]{0,1} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
}

ENTRY %main (x: bf16[8,8]) -> bf16[8,2] {
  %while.1 = (s32[]{:T(128)}, bf16[8,2]{1,0}) while(%tuple), condition=%counts, body=%body
}
"""


@pytest.mark.parametrize("count", ["s32", "u32"])  # a scan's, a windowed product's
def test_the_tpu_spells_loops_and_reduce_scatters_its_own_way(mesh, count):
    text = TPU.replace("s32", count)
    assert hlo.loops(text) == {"known": 1}
    (found,) = hlo.collectives(text, mesh)
    assert (found.kind, found.axes, found.runs) == ("reduce-scatter", ("fsdp",), 23)
    assert found.bytes == 23 * 8 * 8 * 2 * 3 / 4  # the sum of a quarter, from three others


def test_an_unknown_spelling_is_no_guess():
    with pytest.raises(ValueError, match="not known"):
        hlo.members("replica_groups=@somewhere", 8)


def test_kernels_written_by_hand_are_told_from_other_calls():
    text = 'custom_call_target="tpu_custom_call"\ncustom_call_target="Sharding"\n' * 2
    assert hlo.kernels(text) == {"tpu_custom_call": 2}
