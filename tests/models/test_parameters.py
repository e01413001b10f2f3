"""Weights of two bytes draw in two bytes on a CPU, and draw the same."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax import trees
from flashjax.convert.transformer import abstract_transformer
from flashjax.evaluate.sample import frugal
from flashjax.models.clip import CLIPConfig, CLIPText
from flashjax.models.layers import apply
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.models.parameters import BITS, as_bits
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.models.variants import MMDIT
from flashjax.types import Cond

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")

SIZES = dataclasses.replace(MMDIT["sd35_medium"], depth=9, dual=4, heads=1, position_size=64)


@pytest.fixture(scope="module")
def stored():
    keys = iter(jax.random.split(jax.random.key(0), 200))

    def drawn(leaf):
        return 0.1 * jax.random.normal(next(keys), leaf.shape, jnp.bfloat16)

    return jax.tree.map(drawn, abstract_transformer(SIZES))


def inputs(sizes: MMDiTConfig):
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, sizes.channels))
    text = jax.random.normal(jax.random.key(2), (1, 4, sizes.text_width))
    return x, jnp.ones(1), Cond(text=text, pooled=jnp.ones((1, sizes.pooled_width)))


def compiled(params, **options):
    lowered = jax.jit(velocity_of(MMDiT(SIZES))).lower(params, *inputs(SIZES))
    return lowered.compile(**options)


def test_a_program_takes_the_bits_for_what_they_are_and_copies_no_weight(stored):
    bits = as_bits(stored)
    plain, held = compiled(stored), compiled(bits)
    np.testing.assert_array_equal(held(bits, *inputs(SIZES)), plain(stored, *inputs(SIZES)))
    taken, widened = (p.memory_analysis().temp_size_in_bytes for p in (held, plain))
    assert taken < widened / 2, "what lies outside the loops is a quarter of these sizes"
    one_by_one = compiled(bits, compiler_options=frugal(SIZES))
    np.testing.assert_array_equal(one_by_one(bits, *inputs(SIZES)), plain(stored, *inputs(SIZES)))
    assert one_by_one.memory_analysis().temp_size_in_bytes < 0.6 * taken


SMALL = {"vocabulary": 50, "width": 16, "depth": 3, "heads": 2, "hidden": 32}


@pytest.mark.parametrize(
    "network",
    [
        T5Encoder(T5Config(**SMALL, head_width=8)),
        CLIPText(CLIPConfig(**SMALL, length=6, activation="gelu", projection=8)),
    ],
)
def test_text_encoders_read_bits_too(network):
    ids = jnp.array([[3, 7, 49, 1, 0, 0]])
    params = trees.cast(network.init(jax.random.key(0), ids)["params"], jnp.bfloat16)
    run = jax.jit(functools.partial(apply, network))
    wanted, found = run(params, ids), run(as_bits(params), ids)
    assert any(leaf.dtype == BITS for leaf in jax.tree.leaves(as_bits(params)))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_only_large_bfloat16_leaves_are_bits_and_share_their_memory(stored):
    tree = {"dense": {"kernel": stored["final"]["kernel"], "bias": stored["final"]["bias"]}}
    tree["other"] = {"kernel": jnp.ones((2, 2))}
    bits = as_bits(tree)
    assert bits["dense"]["bias"] is tree["dense"]["bias"]
    assert bits["other"]["kernel"] is tree["other"]["kernel"]
    kernel, seen = tree["dense"]["kernel"], bits["dense"]["kernel"]
    assert seen.dtype == BITS
    assert seen.unsafe_buffer_pointer() == kernel.unsafe_buffer_pointer()


def test_a_large_model_keeps_nothing_expanded_from_step_to_step_and_a_small_one_may():
    small, large = frugal(SIZES), frugal(MMDIT["sd35_medium"])
    assert large == small | {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
    jax.jit(jnp.sin).lower(1.0).compile(compiler_options=large)  # which a compiler here knows
