"""One program, any mesh: every step gives the same numbers on 1 device and on 2 x 2 x 2."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax import trees
from flashjax.parallel.layout import MMDIT, REPLICATED
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import param_shardings, state_shardings

ONE, EIGHT = {}, {"data": 2, "fsdp": 2, "tensor": 2}


def losses_on(toy, sizes, job):
    """The metrics of two rounds of a toy job on a mesh of these sizes."""
    mesh = make_mesh(sizes)
    state, steps, frozen = job(toy.networks(toy.FULL if job is toy.guide else toy.SMALL, mesh))
    shardings = state_shardings(jax.eval_shape(lambda: state), toy.RULES, mesh)
    state = jax.device_put(state, shardings)
    frozen = jax.device_put(frozen, toy.replicated_but_networks(frozen, mesh))
    batch = jax.device_put(toy.draw_batch(), NamedSharding(mesh, P(("data", "fsdp"))))
    jitted = [
        jax.jit(step, out_shardings=(shardings, None), compiler_options=toy.QUICK) for step in steps
    ]
    history = []
    for _ in range(2):
        for step in jitted:
            state, metrics = step(state, frozen, batch, jax.random.key(9))
            history.append(jax.device_get(metrics))
    return history


@pytest.mark.parametrize("job", ["teach", "guide", "match"])
def test_a_step_gives_the_same_numbers_on_every_mesh(toy, job):
    one, eight = (losses_on(toy, sizes, getattr(toy, job)) for sizes in (ONE, EIGHT))
    assert one[0] != one[-1]
    for want, got in zip(one, eight, strict=True):
        assert want.keys() == got.keys() and any("grad_norm" in name for name in want)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)


def test_every_large_parameter_of_the_transformer_is_split(toy):
    mesh = make_mesh(EIGHT)
    shapes = jax.eval_shape(lambda: toy.draw_transformer(toy.FULL, 0))
    specs = {
        path: s.spec for path, s in trees.flatten(param_shardings(shapes, MMDIT, mesh)).items()
    }
    for path, leaf in trees.flatten(shapes).items():
        assert any(specs[path]) == path.endswith("kernel"), path
        assert not specs[path] or len(specs[path]) <= len(leaf.shape)
    heads = param_shardings(jax.eval_shape(toy.draw_heads), REPLICATED, mesh)
    assert not any(any(sharding.spec) for sharding in jax.tree.leaves(heads))
