"""What programs cost that are no training step, and how a difference of costs is told."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax import trees
from flashjax.flow.guidance import guided
from flashjax.flow.solvers import euler
from flashjax.parallel.layout import REPLICATED, ROLES
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import param_shardings
from flashjax.stages.setting import make_encoder
from flashjax.types import Cond

EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}


@functools.cache
def sampler(toy, role):
    """The guided teacher's sampler on 2 x 2 x 2 devices, compiled, and its arguments."""
    mesh = make_mesh(EIGHT)
    teach = guided(toy.networks(toy.SMALL, mesh).velocity, 3.0)

    def draw(teacher, x, conds):
        return euler(lambda x, sigma: teach(teacher, x, sigma, *conds), x, toy.SIGMAS)

    teacher = toy.draw_transformer(toy.SMALL, 1)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    random = np.random.default_rng(5)
    one = lambda *shape: jnp.float32(random.normal(size=(4, *shape)))
    conds = [Cond(one(6, 16), one(12)) for _ in range(2)]
    arguments = (
        jax.device_put(teacher, param_shardings(teacher, ROLES[role], mesh)),
        *jax.device_put((one(4, 4, 4), conds), rows),
    )
    return jax.jit(draw, out_shardings=rows).lower(*arguments).compile(), arguments


def test_sampling_from_the_teacher_costs_what_it_did(toy, same_costs):
    same_costs("sample", sampler(toy, "teacher")[0], make_mesh(EIGHT))


def test_encoding_text_costs_what_it_did(toy, same_costs):
    mesh = make_mesh(EIGHT)
    text = toy.draw_text()
    whole = param_shardings(text, REPLICATED, mesh)
    tokens = jax.device_put(toy.draw_batch().tokens, NamedSharding(mesh, P(("data", "fsdp"))))
    encode = make_encoder(toy.TEXT, mesh).lower(jax.device_put(text, whole), tokens)
    same_costs("text", encode.compile(), mesh)


def test_a_whole_teacher_draws_the_same_and_is_gathered_in_no_pass(toy):
    (split, given), (whole, given_whole) = (sampler(toy, r) for r in ("teacher", "whole_teacher"))
    np.testing.assert_allclose(split(*given), whole(*given_whole), rtol=1e-4, atol=1e-4)
    costs = [toy.costs_of(program, make_mesh(EIGHT)) for program in (split, whole)]
    assert ["all-gather fsdp f32" in cost["collectives"] for cost in costs] == [True, False]
    split = {
        path
        for path, leaf in trees.flatten(given_whole[0]).items()
        if "fsdp" in jax.tree.leaves(tuple(leaf.sharding.spec))
    }
    assert split and all("modulation/kernel" in path for path in split)


@pytest.mark.parametrize("role", ["teacher", "whole_teacher"])
def test_no_modulation_is_gathered(toy, role):
    program, _ = sampler(toy, role)
    lines = [line for line in program.as_text().splitlines() if "modulation/" in line]
    assert any(" all-reduce(" in line for line in lines)
    assert not any(" all-gather(" in line for line in lines)


def test_a_cost_that_grew_is_told_from_what_to_what(toy):
    figures = {"temporary_bytes": 1000, "product_flops": 2000.0, "output_bytes": 0}
    moved = {"all-gather fsdp f32": {"runs": 4.0, "bytes": 64.0}}
    before = {"jaxlib": "1", "figures": figures, "collectives": moved}
    now = copy.deepcopy(before)
    now["figures"]["temporary_bytes"] = 1050
    assert not toy.grown(before, now)
    now["figures"] |= {"temporary_bytes": 1100, "output_bytes": 8}
    now["collectives"] = {"all-gather fsdp f32": {"runs": 8.0, "bytes": 128.0}}
    now["collectives"]["all-reduce data f32"] = {"runs": 1.0, "bytes": 4096.0}
    assert toy.grown(before, now) == [
        "temporary_bytes: 1,000 -> 1,100 (+10.0 %), allowed 5 %",
        "output_bytes: 0 -> 8, allowed 0 %",
        "all-gather fsdp f32: 4 times 64 bytes -> 8 times 128 bytes",
        "all-reduce data f32: none -> 1 times 4,096 bytes",
    ]
    assert toy.grown(now, before)  # what costs less is written down, too
