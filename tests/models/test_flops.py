"""Operations counted from sizes, against the products in the traced program."""

import math

import jax
import jax.numpy as jnp
import pytest

from flashjax.models.flops import mmdit_flops
from flashjax.models.mmdit import MMDiT, MMDiTConfig
from flashjax.models.variants import MMDIT
from flashjax.types import Cond


def products(jaxpr):
    """Operations of all matrix products of a jaxpr, loops counted as often as they run."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (lhs, _), _ = eqn.params["dimension_numbers"]
            contracted = math.prod(eqn.invars[0].aval.shape[d] for d in lhs)
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * contracted
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * products(inner)
    return total


@pytest.mark.parametrize("dual", [0, 2])
def test_a_forward_pass_costs_what_its_products_cost(dual):
    config = MMDiTConfig(
        depth=5, heads=3, dual=dual, position_size=8, text_width=24, pooled_width=20, head_width=8
    )
    model, x = MMDiT(config), jnp.zeros((2, 8, 12, 16))
    cond = Cond(jnp.zeros((2, 7, 24)), jnp.zeros((2, 20)))
    params = jax.eval_shape(model.init, jax.random.key(0), x, jnp.ones(2), cond)
    traced = jax.make_jaxpr(lambda p: model.apply(p, x, jnp.ones(2), cond))(params)
    assert products(traced.jaxpr) == 2 * mmdit_flops(config, image=24, text=7)


@pytest.mark.parametrize(("name", "teraflops"), [("sd35_medium", 11.3), ("sd35_large", 31.1)])
def test_the_known_models_cost_what_is_known_of_them(name, teraflops):
    """24 L D^2 tokens + 4 L D tokens^2, plus Medium's second attention."""
    counted = mmdit_flops(MMDIT[name], image=4096, text=333) / 1e12
    assert counted == pytest.approx(teraflops, rel=0.04)
