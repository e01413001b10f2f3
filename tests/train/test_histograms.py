"""Histograms of gradients are what the optimiser remembers of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flashjax.parallel.mesh import make_mesh
from flashjax.train.histograms import ENTRIES, _whole, gradient_samples
from flashjax.train.metrics import EventWriter
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import Descent, descend, init_state


def test_what_lies_on_several_processes_is_fetched_from_devices_that_have_it_whole(monkeypatch):
    """Of the devices of others a process can fetch nothing."""
    mesh = make_mesh({"fsdp": 4}, jax.devices()[:4])
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    descent = Descent(make_optimiser(OptimiserConfig(1e-3), 10))
    state = init_state({"w": jnp.ones((64, 64))}, descent)
    state = jax.tree.map(lambda x: jax.device_put(x, rows) if x.ndim else x, state)
    fetched = []
    monkeypatch.setattr(jax, "device_get", lambda parts: fetched.extend(parts) or parts)
    assert gradient_samples(state)
    assert fetched and all(part.is_fully_replicated for part in fetched)


@pytest.mark.parametrize(("beta1", "share"), [(0.9, 0.1), (0.0, 1.0)])
def test_after_one_update_they_are_the_gradient(beta1, share, tmp_path):
    config = OptimiserConfig(1e-3, beta1=beta1, beta2=0.75, clip_norm=1e9)
    descent = Descent(make_optimiser(config, 10))
    params = {"joint": {"w": jnp.ones((3, 2))}, "position": jnp.ones(4)}
    state = init_state(params, descent)
    grads = jax.tree.map(lambda x: jnp.arange(1.0, x.size + 1).reshape(x.shape), params)
    learner, _ = descend("student", state.learner, grads, {}, descent)
    found = gradient_samples(state.replace(learner=learner))
    (values,) = found.values()  # what is frozen has no gradient
    assert list(found) == ["learner/gradients/joint"]
    root = share if beta1 else np.sqrt(1 - 0.75)
    np.testing.assert_allclose(values, root * np.arange(1.0, 7.0), rtol=1e-6)
    writer = EventWriter(tmp_path)
    writer.write_histograms(1, found)
    writer.close()
    (path,) = tmp_path.iterdir()
    assert b"learner/gradients/joint" in path.read_bytes()


@pytest.mark.parametrize("size", [1, ENTRIES, ENTRIES + 1, 2 * ENTRIES - 1, 3 * ENTRIES + 7])
def test_entries_are_of_the_whole_array(size):
    found = np.asarray(_whole(jnp.arange(size)))
    assert ENTRIES // 2 < len(found) <= ENTRIES or len(found) == size
    assert found[0] == 0 and size - found[-1] <= -(-size // ENTRIES)
