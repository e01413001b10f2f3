"""One program, any mesh: every step gives the same numbers on 1 device and on 2 x 2 x 2."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax import trees
from flashjax.models.mmdit import MMDiT
from flashjax.models.variants import MMDIT as MMDIT_SIZES
from flashjax.parallel.layout import MMDIT, REPLICATED, ROLES
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import (
    Rules,
    check_split,
    layout_table,
    param_shardings,
    state_shardings,
)
from flashjax.types import Cond, InputError

EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}


@functools.cache
def programs_on(toy, job, **sizes):
    """The mesh, the arguments and the compiled steps of a toy job on a mesh of these sizes."""
    mesh = make_mesh(sizes)
    job = getattr(toy, job)
    state, steps, frozen = job(toy.networks(toy.FULL if job is toy.guide else toy.SMALL, mesh))
    shardings = state_shardings(jax.eval_shape(lambda: state), toy.RULES, mesh)
    state = jax.device_put(state, shardings)
    frozen = jax.device_put(frozen, toy.replicated_but_networks(frozen, mesh))
    batch = jax.device_put(toy.draw_batch(), NamedSharding(mesh, P(("data", "fsdp"))))
    shared = (frozen, batch, jax.random.key(9))
    jitted = [jax.jit(step, out_shardings=(shardings, None)) for step in steps]
    return mesh, state, shared, [step.lower(state, *shared).compile() for step in jitted]


@functools.cache
def steps_on(toy, job, **sizes):
    """States and metrics of two rounds of a toy job on a mesh of these sizes.

    Every step begins where one device's did: what Adam makes of a gradient's last bits would grow.
    """
    _, state, shared, compiled = programs_on(toy, job, **sizes)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    befores = [before for before, _, _ in steps_on(toy, job)] if sizes else [None] * 4
    found = []
    for step, before in zip(compiled * 2, befores, strict=False):
        state = jax.device_put(before, shardings) if sizes else state
        before = jax.device_get(state)
        state, metrics = step(state, *shared)
        found.append((before, jax.device_get(state), jax.device_get(metrics)))
    return found


def length(tree):
    """The norm of all numbers of a tree."""
    return np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(tree)))


def difference(one, other):
    return jax.tree.map(lambda a, b: np.float64(a) - b, one, other)


def assert_same_steps(toy, job, **sizes):
    """The metrics of every step are one device's, and so is what it makes of the state."""
    one, other = steps_on(toy, job), steps_on(toy, job, **sizes)
    assert one[0][2] != one[-1][2] and len(one) == len(other)
    for (before, want, told), (_, got, said) in zip(one, other, strict=True):
        assert told.keys() == said.keys() and any("grad_norm" in name for name in told)
        for name in told:
            np.testing.assert_allclose(said[name], told[name], rtol=1e-5, err_msg=name)
        assert length(difference(got, want)) < 1e-4 * length(difference(want, before))


@pytest.mark.parametrize("job", ["teach", "guide", "match"])
def test_a_step_gives_the_same_numbers_on_every_mesh(toy, job):
    assert_same_steps(toy, job, **EIGHT)


@pytest.mark.parametrize(
    ("job", "names"), [("teach", ["teach"]), ("guide", ["guide"]), ("match", ["critic", "student"])]
)
def test_a_step_costs_what_it_did(toy, same_costs, job, names):
    mesh, _, _, compiled = programs_on(toy, job, **EIGHT)
    for name, program in zip(names, compiled, strict=True):
        same_costs(name, program, mesh)


def test_sequences_split_over_a_context_axis_give_the_same_numbers(toy):
    assert_same_steps(toy, "guide", **{"context": 2, "fsdp": 2})


@pytest.mark.parametrize("name", ["nano", "sd35_medium", "sd35_large"])
def test_the_layout_of_every_role_is_the_golden_one(name):
    """Refreshed with REFRESH_GOLDEN=1; read the difference before you commit it."""
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    config = MMDIT_SIZES[name]
    cond = Cond(jnp.zeros((1, 1, config.text_width)), jnp.zeros((1, config.pooled_width)))
    shapes = jax.eval_shape(
        lambda: MMDiT(config).init(jax.random.key(0), jnp.zeros((1, 8, 8, 16)), jnp.ones(1), cond)
    )["params"]
    tables = []
    for role in ("teacher", "student", "fake"):
        stored = (
            jax.eval_shape(lambda t: trees.cast(t, jnp.bfloat16), shapes)
            if role == "teacher"
            else shapes
        )
        shardings = param_shardings(stored, ROLES[role], mesh)
        check_split(stored, shardings, mesh, tolerance=0.02)
        tables.append(f"{role}\n{layout_table(stored, shardings)}")
    golden = Path(__file__).parents[1] / "golden" / f"layout_{name}.txt"
    if os.environ.get("REFRESH_GOLDEN"):
        golden.write_text("\n".join(tables))
    assert "\n".join(tables) == golden.read_text()


def test_unsplit_bytes_above_the_tolerance_are_listed():
    mesh = make_mesh({"fsdp": 4})
    tree = {"a": {"kernel": jnp.ones((8, 8))}, "b": jnp.ones((2, 2)), "c": jnp.ones(3)}
    rules = Rules(params=((".*kernel", P("fsdp")), (".*", P())), activations={})
    shardings = param_shardings(tree, rules, mesh)
    check_split(tree, shardings, mesh, tolerance=0.1)
    with pytest.raises(InputError, match=r"9.9 % .* above 5.0 %: .*b 16 bytes; c 12 bytes"):
        check_split(tree, shardings, mesh, tolerance=0.05)


def test_two_dims_on_one_axis_are_an_error():
    rules = Rules(params=((".*", P("fsdp", "fsdp")),), activations={})
    with pytest.raises(InputError, match="two dims on fsdp"):
        param_shardings({"w": jnp.ones((4, 4))}, rules, make_mesh({"fsdp": 2}))


def test_every_large_parameter_of_the_transformer_is_split(toy):
    mesh = make_mesh(EIGHT)
    shapes = jax.eval_shape(lambda: toy.draw_transformer(toy.FULL, 0))
    specs = {
        path: s.spec for path, s in trees.flatten(param_shardings(shapes, MMDIT, mesh)).items()
    }
    for path, leaf in trees.flatten(shapes).items():
        assert any(specs[path]) == path.endswith(("kernel", "position")), path
        assert not specs[path] or len(specs[path]) <= len(leaf.shape)
    heads = param_shardings(jax.eval_shape(toy.draw_heads), REPLICATED, mesh)
    assert not any(any(sharding.spec) for sharding in jax.tree.leaves(heads))
