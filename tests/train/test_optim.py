"""The optimiser against torch, its schedule, and the parameters that it never moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from flashjax.train.optim import (
    OptimiserConfig,
    label_frozen,
    make_optimiser,
    restarted,
    schedule,
    warn_of_overlap,
)


def run(tx, params, grads):
    """The parameters after one update for every gradient."""
    opt = tx.init(params)
    update = jax.jit(tx.update)
    for grad in grads:
        updates, opt = update(grad, opt, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("beta1", [0.8, 0.0])
@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_it_is_torchs_adamw_with_clipping(key, clip, beta1):
    start, *grads = np.asarray(jax.random.normal(key, (5, 6)))
    config = OptimiserConfig(0.05, beta1=beta1, beta2=0.95, weight_decay=0.1, clip_norm=clip)
    got = run(make_optimiser(config, 4), {"w": jnp.asarray(start)}, [{"w": g} for g in grads])
    weight = torch.nn.Parameter(torch.tensor(start))
    adam = torch.optim.AdamW([weight], lr=0.05, betas=(beta1, 0.95), weight_decay=0.1)
    for grad in grads:
        weight.grad = torch.tensor(grad)
        torch.nn.utils.clip_grad_norm_([weight], clip)
        adam.step()
    np.testing.assert_allclose(got["w"], weight.detach().numpy(), atol=1e-5)


def test_position_tables_stay_and_do_not_count_in_clipping():
    params = {
        "position": jnp.ones(3),
        "transformer": {"position": jnp.ones(3), "w": jnp.ones(3)},
        "text": {"positions": jnp.ones(3)},
    }
    config = OptimiserConfig(0.1, weight_decay=0.5, clip_norm=1.0)
    grads = jax.tree.map(lambda leaf: 0.01 * leaf, params)
    huge = grads | {"position": 1e6 * jnp.ones(3)}
    tx = make_optimiser(config, 3)
    got, same = run(tx, params, [grads] * 3), run(tx, params, [huge] * 3)
    np.testing.assert_array_equal(got["position"], params["position"])
    np.testing.assert_array_equal(got["transformer"]["position"], params["position"])
    assert np.all(got["transformer"]["w"] < 1) and np.all(got["text"]["positions"] < 1)
    jax.tree.map(np.testing.assert_array_equal, got, same)
    labels = label_frozen(params)
    assert labels["transformer"] == {"position": "frozen", "w": "train"}


def test_frozen_parameters_have_no_memory():
    config = OptimiserConfig(0.1)
    opt = make_optimiser(config, 3).init({"position": jnp.ones(7), "w": jnp.ones(3)})
    assert {leaf.shape for leaf in jax.tree.leaves(opt)} == {(), (3,)}


def test_the_rate_warms_up_stays_and_decays():
    rate = schedule(OptimiserConfig(2.0, warmup_steps=10, decay_steps=20), 100)
    assert [float(rate(step)) for step in (0, 5, 10, 80)] == [0.0, 1.0, 2.0, 2.0]
    assert float(rate(90)) == pytest.approx(1.01) and float(rate(100)) == pytest.approx(0.02)


def test_without_warm_up_and_decay_the_rate_is_constant():
    rate = schedule(OptimiserConfig(2.0), 100)
    assert [float(rate(step)) for step in (0, 1, 99)] == [2.0, 2.0, 2.0]


def test_without_a_first_moment_none_is_kept():
    params = {"w": jnp.ones((4, 3))}
    sizes = {
        beta1: sum(leaf.size for leaf in jax.tree.leaves(opt) if leaf.ndim)
        for beta1 in (0.0, 0.9)
        for opt in [make_optimiser(OptimiserConfig(0.1, beta1=beta1), 3).init(params)]
    }
    assert sizes == {0.0: 12, 0.9: 24}


def test_the_next_job_warms_up_anew_with_the_memory_of_the_last():
    config, params = OptimiserConfig(1.0, warmup_steps=4, clip_norm=1e9), {"w": jnp.ones(3)}
    tx = make_optimiser(config, 100)
    opt = tx.init(params)
    for n in range(6):
        _, opt = tx.update({"w": jnp.arange(1.0, 4.0) + n}, opt, params)
    grads = {"w": -jnp.ones(3)}
    went_on, _ = tx.update(grads, opt, params)
    anew, opt = tx.update(grads, restarted(opt), params)
    np.testing.assert_array_equal(anew["w"], 0.0)  # the first step of a ramp
    second, _ = tx.update(grads, opt, params)
    assert np.all(went_on["w"] < -0.5) and np.all(
        second["w"] < 0
    )  # momentum outweighs the gradient


@pytest.mark.parametrize(("warmup", "decay", "said"), [(10, 90, 0), (10, 91, 9), (10, 200, 0)])
def test_a_job_too_short_for_its_warm_up_and_decay_is_told_so(warmup, decay, said, caplog):
    config = OptimiserConfig(2.0, warmup_steps=warmup, decay_steps=decay)
    warn_of_overlap(config, 100, "guide.optimiser")
    assert bool(caplog.messages) == (warmup + decay > 100)
    assert all(f"begins at step {said}, " in message for message in caplog.messages)
    if caplog.messages and said:
        rate = schedule(config, 100)
        assert float(rate(said - 1)) < 2.0 and float(rate(said)) == 2.0
