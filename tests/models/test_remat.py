"""What the backward pass keeps changes memory, never numbers; weights are cast, then moved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax.models.attention import attend_on
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.models.remat import REMAT
from flashjax.parallel.layout import MMDIT
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import Constraint, param_shardings
from flashjax.types import Cond, InputError

CONFIG = MMDiTConfig(
    depth=3, heads=2, dual=1, position_size=4, text_width=8, pooled_width=8, head_width=8
)
X, COND = jnp.ones((4, 8, 8, 16)), Cond(jnp.ones((4, 3, 8)), jnp.ones((4, 8)))


def loss_of(remat, **more):
    velocity = velocity_of(MMDiT(dataclasses.replace(CONFIG, remat=remat), **more))
    return lambda params: jnp.sum(jnp.sin(velocity(params, X, jnp.ones(4), COND)))


@pytest.fixture(scope="module")
def params(random_params):
    shapes = jax.eval_shape(MMDiT(CONFIG).init, jax.random.key(0), X, jnp.ones(4), COND)
    return random_params(shapes["params"])


@pytest.fixture(scope="module")
def want(params):
    return jax.jit(jax.grad(loss_of("none")))(params)


def exponentials(remat, params):
    """How often the gradient's program takes a softmax."""
    return str(jax.make_jaxpr(jax.grad(loss_of(remat)))(params)).count(" exp ")


@pytest.mark.parametrize("remat", ["block", "attention", "products"])
def test_the_gradient_is_the_same_whatever_is_kept(remat, want, params):
    got = jax.jit(jax.grad(loss_of(remat)))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), want, got)


def test_the_gradient_is_the_same_whatever_a_round_of_the_scan_is(params):
    config = dataclasses.replace(CONFIG, depth=4)
    shapes = jax.eval_shape(MMDiT(config).init, jax.random.key(0), X, jnp.ones(4), COND)

    def loss(unroll):
        velocity = velocity_of(MMDiT(dataclasses.replace(config, unroll=unroll)))
        return lambda params: jnp.sum(jnp.sin(velocity(params, X, jnp.ones(4), COND)))

    def loops(unroll):
        return jax.jit(jax.grad(loss(unroll))).lower(deeper).as_text().count("stablehlo.while")

    deeper = jax.tree.map(lambda x: jnp.full(x.shape, 0.1), shapes["params"])
    one, two = (jax.jit(jax.grad(loss(unroll)))(deeper) for unroll in (1, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, two)
    assert loops(2) < loops(1)


def test_what_is_not_kept_is_computed_again(params):
    assert exponentials("block", params) > exponentials("none", params)


def test_an_unknown_choice_is_named():
    with pytest.raises(InputError, match=r"remat='all': choose of none, block"):
        dataclasses.replace(CONFIG, remat="all")
    assert set(REMAT) == {"none", "block", "attention", "products", "offload"}


def test_with_products_kept_no_projection_is_multiplied_again(params):
    """Nor one whose sums are of another dtype; what XLA's softmax attention does, is."""

    def projections(remat):
        config = dataclasses.replace(CONFIG, remat=remat, dtype=jnp.bfloat16, residual=jnp.float32)
        velocity = velocity_of(MMDiT(config))
        loss = lambda params: jnp.sum(velocity(params, X, jnp.ones(4), COND))
        traced = jax.make_jaxpr(jax.grad(loss))(params)
        dots = [e for e in equations(traced.jaxpr) if e.primitive.name == "dot_general"]
        return sum(not e.params["dimension_numbers"][1][0] for e in dots)

    assert projections("products") == projections("none") < projections("attention")


def test_a_kept_cudnn_attention_is_not_run_again(params, monkeypatch):
    """Its backward pass reads the statistics of the softmax, not only what was attended."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    attend = attend_on(make_mesh({}), MMDIT, "cudnn")

    def passes(remat):
        config = dataclasses.replace(CONFIG, remat=remat, dtype=jnp.bfloat16)
        velocity = velocity_of(MMDiT(config, attend=attend))
        loss = lambda params: jnp.sum(velocity(params, X, jnp.ones(4), COND))
        traced = jax.make_jaxpr(jax.grad(loss))(params)
        names = [equation.primitive.name for equation in equations(traced.jaxpr)]
        return names.count("dot_product_attention_fwd_wrapper")

    counts = {remat: passes(remat) for remat in ("none", "attention", "products", "block")}
    assert counts["attention"] == counts["products"] == counts["none"] < counts["block"]


def test_weights_are_cast_before_they_are_gathered(params):
    """In the traced program every layout for use, of a kernel, is of a bfloat16 array."""
    mesh = make_mesh({"data": 2, "fsdp": 4})
    config = dataclasses.replace(CONFIG, dtype=jnp.bfloat16)
    model = MMDiT(config, constrain=Constraint(mesh, MMDIT))
    velocity = velocity_of(model)
    stored = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        params,
        param_shardings(params, MMDIT, mesh),
    )
    x = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    traced = jax.make_jaxpr(lambda p, x: velocity(p, x, jnp.ones(4), COND))(stored, x)
    whole = [
        equation.outvars[0].aval
        for equation in equations(traced.jaxpr)
        if equation.primitive.name == "sharding_constraint"
    ]
    kernels = [aval for aval in whole if aval.shape == (16, 3, 2, 8)]  # of qkv, for use
    assert kernels and all(aval.dtype == jnp.bfloat16 for aval in whole)


def equations(jaxpr):
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(value):
                yield from equations(getattr(value, "jaxpr", value))


def is_program(value):
    return hasattr(getattr(value, "jaxpr", value), "eqns")
