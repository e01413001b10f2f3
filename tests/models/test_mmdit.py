"""The transformer's program: its size, and blocks that are skipped. Numbers: tests/convert."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax import trees
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
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
