"""The real steps on branches: nothing crosses a branch, and a branch alone is the step alone."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax.parallel.branches import branch_shardings, over_branches, stack
from flashjax.parallel.hlo import members
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import state_shardings

SPANS = jnp.array([[0, 2], [2, 2]], jnp.int32)
COLLECTIVE = r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\("


def of(tree, branch):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[branch], tree)


def same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


@functools.cache
def branched(toy, fsdp):
    """State, shared arguments and both steps compiled for two branches of `fsdp` devices each."""
    mesh = make_mesh({"branch": 2, "fsdp": fsdp})
    state, steps, frozen = toy.match(toy.networks(toy.SMALL, mesh))
    one = state_shardings(jax.eval_shape(lambda: state), toy.RULES, mesh)
    shardings = branch_shardings(one, mesh)
    shared = (
        jax.device_put(frozen, toy.replicated_but_networks(frozen, mesh)),
        jax.device_put(toy.draw_batch(), NamedSharding(mesh, P(("data", "fsdp")))),
        jax.random.key(9),
    )
    state = jax.device_put(stack([state, state]), shardings)

    def on_span(step):
        return lambda state, span, frozen, *rest: step(
            state, dataclasses.replace(frozen, span=span), *rest
        )

    compiled = [
        jax.jit(
            over_branches(on_span(step), mesh),
            out_shardings=(shardings, None),
        )
        .lower(state, SPANS, *shared)
        .compile()
        for step in steps
    ]
    return state, shared, compiled


@pytest.mark.parametrize("fsdp", [1, 4])
def test_no_collective_of_a_step_crosses_a_branch(toy, fsdp):
    _, _, compiled = branched(toy, fsdp)
    lines = [
        line
        for program in compiled
        for line in program.as_text().splitlines()
        if re.search(COLLECTIVE, line)
    ]
    assert bool(lines) == (fsdp > 1)
    for line in lines:
        for group in members(line, 2 * fsdp):
            assert len({member // fsdp for member in group}) == 1, line[:200]


def test_steps_on_branches_cost_what_they_did(toy, same_costs):
    _, _, compiled = branched(toy, 4)
    mesh = make_mesh({"branch": 2, "fsdp": 4})
    for name, program in zip(("split-critic", "split-student"), compiled, strict=True):
        same_costs(name, program, mesh)


def test_two_branches_give_the_same_numbers_on_two_and_on_eight_devices(toy):
    results = []
    for fsdp in (1, 4):
        state, shared, compiled = branched(toy, fsdp)
        history = []
        for program in compiled:
            state, metrics = program(state, SPANS, *shared)
            history.append(jax.device_get(metrics))
        results.append(history)
    for want, got in zip(*results, strict=True):
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)


def test_a_branch_that_breaks_is_skipped_alone(toy):
    """The other branch's bits are those of a run in which nothing broke."""
    state, shared, (critic, student) = branched(toy, 1)

    def rounds(state):
        told = []
        for program in (critic, student, critic, student):
            state, metrics = program(state, SPANS, *shared)
            told.append(jax.device_get(metrics))
        return state, told

    def broken(leaf):
        return leaf.at[0].set(jnp.nan)

    fake = state.fake.replace(params=jax.tree.map(broken, state.fake.params))
    whole, _ = rounds(state)
    after, told = rounds(state.replace(fake=fake))
    same(of(after, 1), of(whole, 1))
    for before, now in ((state.student, after.student), (fake, after.fake)):
        for part in ("params", "opt", "ema"):
            same(of(getattr(now, part), 0), of(getattr(before, part), 0))
    same(of(after.heads.opt, 0), of(state.heads.opt, 0))  # nothing of what they saw was a number
    assert told[-1]["student/skipped"].tolist() == [2, 0]
    for name in ("fake", "heads"):
        assert told[-2][f"{name}/skipped_in_row"].tolist() == [2, 0]
