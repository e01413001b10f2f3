"""The transformer's program: its size, and blocks that are skipped. Numbers: tests/convert."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax import trees
from flashjax.models.mmdit import MMDiT, MMDiTConfig, features_of, velocity_of
from flashjax.models.variants import MMDIT
from flashjax.types import Cond, InputError

TINY = MMDiTConfig(
    depth=4, heads=1, dual=2, position_size=4, text_width=8, pooled_width=6, head_width=8
)
X, SIGMA = jnp.ones((1, 4, 4, 16)), jnp.full((1,), 0.5)
COND = Cond(text=jnp.ones((1, 3, 8)), pooled=jnp.ones((1, 6)))


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(
        jax.eval_shape(MMDiT(TINY).init, jax.random.key(0), X, SIGMA, COND)["params"], std=0.3
    )


def lowered_size(config, *, skip=None):
    """Characters of the lowered program; nothing is allocated or compiled."""
    cond = Cond(jnp.zeros((1, 5, config.text_width)), jnp.zeros((1, config.pooled_width)))
    arguments = jax.eval_shape(lambda: (X, SIGMA, cond))
    model = MMDiT(config)
    variables = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    return len(jax.jit(model.apply).lower(variables, *arguments, skip).as_text())


@pytest.mark.parametrize("name", ["sd3_medium", "sd35_medium", "sd35_large"])
def test_the_program_does_not_grow_with_depth(name):
    config = MMDIT[name]
    shallow = dataclasses.replace(config, depth=6, dual=min(config.dual, 3))
    assert lowered_size(config) == pytest.approx(lowered_size(shallow), rel=0.01)


def test_nor_do_skipped_blocks_make_it_grow():
    sizes = [
        lowered_size(
            dataclasses.replace(TINY, depth=depth), skip=jax.ShapeDtypeStruct((depth,), jnp.bool_)
        )
        for depth in (6, 24)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_a_skipped_block_is_as_if_it_were_not_there(params):
    """Skipping the second of two dual blocks is a model with the first alone."""
    skipped = jax.jit(velocity_of(MMDiT(TINY), skip=(1,)))(params, X, SIGMA, COND)
    first = {**params, "dual": jax.tree.map(lambda leaf: leaf[:1], params["dual"])}
    shorter = MMDiT(dataclasses.replace(TINY, depth=3, dual=1))
    want = jax.jit(velocity_of(shorter))(first, X, SIGMA, COND)
    np.testing.assert_allclose(skipped, want, atol=1e-6)


@pytest.mark.parametrize("blocks", [(3,), (0, 4), (-1,)])
def test_the_last_block_and_blocks_beyond_are_not_skipped(blocks):
    with pytest.raises(InputError, match="choose from 0 to 2"):
        velocity_of(MMDiT(TINY), skip=blocks)


def test_skipping_does_not_touch_the_parameters(params):
    skip = jnp.zeros((4,), bool)
    init = jax.eval_shape(MMDiT(TINY).init, jax.random.key(0), X, SIGMA, COND, skip)
    trees.check_same(params, init["params"], where="init")


# --- tokens between blocks ------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 1])
def test_tapped_tokens_are_what_a_model_without_later_blocks_comes_to(block, params):
    model = MMDiT(TINY)
    tapped = features_of(model, (block,))(params, X, SIGMA, COND)[1]
    later = jnp.arange(TINY.depth) > block
    want = model.apply({"params": params}, X, SIGMA, COND, later, taps=(TINY.depth - 2,))[1]
    np.testing.assert_allclose(tapped, want, atol=1e-6)


@pytest.mark.parametrize("taps", [(3,), (2, 3), (1, 2), (2, 0), (0, 0, 3)])
def test_taps_stand_in_the_order_that_was_asked_for(taps, params):
    velocity, tokens = features_of(MMDiT(TINY), taps)(params, X, SIGMA, COND)
    np.testing.assert_allclose(velocity, velocity_of(MMDiT(TINY))(params, X, SIGMA, COND))
    alone = [features_of(MMDiT(TINY), (tap,))(params, X, SIGMA, COND)[1][0] for tap in taps]
    np.testing.assert_allclose(tokens, np.stack(alone), atol=1e-6)
    assert len({value.tobytes() for value in np.asarray(alone)}) == len(set(taps))


@pytest.mark.parametrize("remat", ["none", "block"])
def test_tokens_of_other_blocks_are_not_stacked_nor_kept(remat):
    model = MMDiT(dataclasses.replace(TINY, depth=8, remat=remat))
    shapes = jax.eval_shape(model.init, jax.random.key(0), X, SIGMA, COND)["params"]
    tokens = lambda params: features_of(model, (2, 5))(params, X, SIGMA, COND)[1]
    assert "f32[5,1,4,8]" not in str(jax.make_jaxpr(tokens)(shapes))  # of the five joint blocks
    kept = jax.eval_shape(lambda params: jax.vjp(tokens, params)[1], shapes)
    slots = (3, 1, 4, 8)  # two taps, and where later blocks write
    assert not [leaf.shape for leaf in jax.tree.leaves(kept) if leaf.shape[-4:] == slots]


# --- what is carried in fp32 ----------------------------------------------------------------------

DEEP = dataclasses.replace(TINY, depth=6, heads=4)


@pytest.fixture(scope="module")
def pair(random_params):
    """A teacher and a fake score two hundredths away from it; deep, so that roundings add up."""
    shapes = jax.eval_shape(MMDiT(DEEP).init, jax.random.key(0), X, SIGMA, COND)["params"]
    teacher = random_params(shapes)
    random = np.random.default_rng(1)
    away = lambda leaf: leaf + np.float32(0.002 * random.normal(size=leaf.shape))
    return teacher, jax.tree.map(away, teacher)


def velocities(pair, **how):
    """Of both, of many noisy latents."""
    x = jax.random.normal(jax.random.key(2), (8, 4, 4, 16))
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, 8, axis=0), COND)
    velocity = jax.jit(velocity_of(MMDiT(dataclasses.replace(DEEP, **how))))
    return [velocity(params, x, jnp.full(8, 0.7), cond) for params in pair]


def test_an_fp32_residual_nearly_halves_what_bf16_does_to_the_difference_of_two_scores(pair):
    want, plain, carried = (
        velocities(pair, **how)
        for how in (
            {},
            {"dtype": jnp.bfloat16},
            {"dtype": jnp.bfloat16, "residual": jnp.float32},
        )
    )
    gap = want[1] - want[0]

    def error(found):
        return float(jnp.linalg.norm(found[1] - found[0] - gap) / jnp.linalg.norm(gap))

    assert all(found.dtype == jnp.float32 for found in carried)
    assert error(carried) < 0.65 * error(plain)


def test_gradients_through_an_fp32_residual_are_those_of_fp32(params):
    """To the precision of bf16; every weight has one, in its own dtype."""
    x = jax.random.normal(jax.random.key(2), (2, 4, 4, 16))
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), COND)

    def gradient(**how):
        velocity = velocity_of(MMDiT(dataclasses.replace(TINY, **how)))
        loss = lambda params: jnp.mean(jnp.square(velocity(params, x, jnp.full(2, 0.7), cond)))
        return trees.flatten(jax.jit(jax.grad(loss))(params))

    want, found = gradient(), gradient(dtype=jnp.bfloat16, residual=jnp.float32)
    assert all(found[name].dtype == jnp.float32 for name in want)
    whole, off = (
        np.sqrt(sum(np.square(leaf).sum() for leaf in leaves))
        for leaves in (want.values(), (found[name] - want[name] for name in want))
    )
    assert off < 0.05 * whole
