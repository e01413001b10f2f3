"""Layout rules: parameters, whole states, activations, with and without manual axes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from flashjax import trees
from flashjax.parallel.layout import MMDIT
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import Constraint, Rules, param_shardings, state_shardings
from flashjax.types import InputError

RULES = Rules(
    params=((".*/up/kernel", P("fsdp", "tensor")), (".*/(bias|scale)", P())),
    activations={"batch": ("branch", "data", "fsdp"), "width": None, "hidden": "tensor"},
)
PARAMS = {"mlp": {"up": {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}}}


def test_parameters_follow_the_first_rule_that_matches():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    first = Rules(params=(("mlp/.*", P("data")), *RULES.params), activations={})
    assert param_shardings(PARAMS, RULES, mesh)["mlp"]["up"]["kernel"].spec == P("fsdp", "tensor")
    assert param_shardings(PARAMS, first, mesh)["mlp"]["up"]["kernel"].spec == P("data")


def test_all_leaves_without_a_fitting_rule_are_listed():
    mesh = make_mesh({"fsdp": 8})
    tree = {"mlp": {"up": {"kernel": jnp.ones((6, 4))}, "odd": jnp.ones(3)}, "x": jnp.ones(2)}
    with pytest.raises(InputError) as caught:
        param_shardings(tree, RULES, mesh)
    for part in ("mlp/odd (3,) has no rule", "x (2,) has no rule", "6 over fsdp = 8"):
        assert part in str(caught.value)


def test_rules_match_whole_paths_only():
    with pytest.raises(InputError, match="no rule"):
        param_shardings({"mlp": {"up": {"kernel_old": jnp.ones((8, 4))}}}, RULES, make_mesh({}))


def test_optimiser_state_is_laid_out_like_its_parameters():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    state = jax.eval_shape(
        lambda: {"params": PARAMS, "opt": optax.adam(1e-3).init(PARAMS), "step": jnp.int32(0)}
    )
    specs = {path: s.spec for path, s in trees.flatten(state_shardings(state, RULES, mesh)).items()}
    assert specs["params/mlp/up/kernel"] == specs["opt/0/nu/mlp/up/kernel"] == P("fsdp", "tensor")
    assert specs["step"] == specs["opt/0/count"] == P()


def _mlp(constrain):
    def mlp(params, x):
        up = params["mlp"]["up"]
        hidden = constrain(x @ up["kernel"] + up["bias"], "batch", "hidden")
        return constrain(jnp.sin(hidden) @ up["kernel"].T, "batch", "width")

    return mlp


@pytest.mark.parametrize("context", [False, True])
def test_constrained_numbers_equal_unconstrained_ones(key, context):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    x = jax.random.normal(key, (8, 8))
    want = _mlp(lambda x, *_: x)(PARAMS, x)
    params = jax.device_put(PARAMS, param_shardings(PARAMS, RULES, mesh))
    step = jax.jit(_mlp(Constraint(mesh, RULES)))
    if context:
        with jax.set_mesh(mesh):
            got = step(params, x)
    else:
        got = step(params, x)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert got.sharding.spec[0] == ("data", "fsdp")


def test_constrain_works_under_partial_manual_shard_map(key):
    """Inside, `branch` is manual: the constraint keeps the other axes."""
    mesh = make_mesh({"branch": 2, "data": 2, "tensor": 2})
    x = jax.random.normal(key, (2, 8, 8))
    mlp = _mlp(Constraint(mesh, RULES))

    def loss_and_grad(params, x):
        return jax.value_and_grad(lambda p: jnp.mean(mlp(p, x[0]) ** 2))(params)

    def one_branch(params, x):
        params = jax.tree.map(lambda leaf: leaf[0], params)
        loss, grad = loss_and_grad(params, x)
        return loss[None], jax.tree.map(lambda leaf: leaf[None], grad)

    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), PARAMS)
    both = jax.jit(
        jax.shard_map(
            one_branch,
            mesh=mesh,
            in_specs=P("branch"),
            out_specs=P("branch"),
            axis_names={"branch"},
        )
    )
    losses, grads = both(stacked, x)
    plain = _mlp(lambda x, *_: x)
    wanted = jax.vmap(jax.value_and_grad(lambda p, x: jnp.mean(plain(p, x) ** 2)))(stacked, x)
    for got, want in zip(jax.tree.leaves((losses, grads)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_a_misspelt_dim_is_an_error():
    constrain = Constraint(make_mesh({}), RULES)
    with pytest.raises(KeyError, match="'bacth'; known: batch, hidden, width"):
        constrain(jnp.ones((2, 2)), "bacth", None)
    with pytest.raises(ValueError, match="1 names"):
        constrain(jnp.ones((2, 2)), "batch")


def test_products_see_rows_where_a_cpu_does_not_split_tokens():
    rows = lambda **sizes: Constraint(make_mesh(sizes), MMDIT).rows
    assert rows(data=2, fsdp=2, tensor=2) and not rows(data=2, context=2)
