"""Checksums: the same on every mesh and on the host, another for every change of one element."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flashjax.checksums import PART, _on_devices, check_sums, checksums
from flashjax.parallel.mesh import make_mesh

DTYPES = [np.float32, ml_dtypes.bfloat16, np.float16, np.int32, np.uint8, np.bool_]


def compiled(array):
    """The sum of the program that accelerators run."""
    return {"w": int(_on_devices({"w": array})["w"])}


def _by_hand(array):
    """The definition, one element after the other."""
    kind = f"u{array.dtype.itemsize}"
    total = 0
    for place, word in enumerate(array.reshape(-1).view(kind).tolist()):
        mixed = place * 0x9E3779B1 % 2**32
        total += word * ((mixed ^ mixed >> 15) | 1)
    return total % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (8, 4, 5)])
def test_hosts_and_devices_follow_the_definition(dtype, shape, key):
    array = np.asarray(jax.random.normal(key, shape) * 3).astype(dtype)
    want = {"w": _by_hand(array)}
    assert checksums({"w": array}) == checksums({"w": jnp.asarray(array)}) == want
    assert compiled(jnp.asarray(array)) == want


def test_a_mesh_does_not_change_them(key):
    array = jax.random.normal(key, (8, 4, 6))
    for sizes, spec in [({"fsdp": 8}, P("fsdp")), ({"fsdp": 2, "tensor": 2}, P("fsdp", "tensor"))]:
        split = jax.device_put(array, jax.sharding.NamedSharding(make_mesh(sizes), spec))
        want = checksums({"w": np.asarray(array)})
        assert checksums({"w": split}) == compiled(split) == want
        assert split._npy_value is None  # a second copy would stay as long as the first


def test_parts_of_an_array_are_weighted_by_their_places_in_the_whole():
    array = np.arange(2 * PART + 5, dtype=np.float32)
    assert checksums({"w": array}) == {"w": _by_hand(array)} == compiled(array)


@pytest.mark.parametrize("bit", range(16))
def test_a_flipped_bit_and_two_arrays_that_changed_places_are_named(bit, key):
    tree = {"a": np.asarray(jax.random.normal(key, (40,)), ml_dtypes.bfloat16), "b": np.ones(3)}
    kept = checksums(tree)
    flipped = tree["a"].view(np.uint16).copy()
    flipped[bit] ^= 1 << bit
    with pytest.raises(ValueError, match=r"not what was saved: a$"):
        check_sums({"a": flipped.view(ml_dtypes.bfloat16), "b": tree["b"]}, kept)
    with pytest.raises(ValueError, match=r"not what was saved: a, b$"):
        check_sums({"a": tree["b"], "b": tree["a"]}, kept)
    check_sums(tree, kept)


CROWDED = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from flashjax.checksums import _on_devices
over = NamedSharding(jax.make_mesh((2,), ("branch",)), PartitionSpec("branch"))
state = {str(i): jax.device_put(jnp.ones((2, 300 + i, 256)), over) for i in range(40)}
work = jax.device_put(jnp.ones((2, 1000, 1000)), over)

@jax.jit
def step(work, state):
    for _ in range(10):
        work = jnp.tanh(work @ work)
    return work, jax.tree.map(lambda x: x * work[:, :1, :1], state)

for _ in range(3):
    work, state = step(work, state)
    print(len(jax.device_get(_on_devices(state))))
"""


def test_devices_that_still_train_do_not_stop_each_other():
    """A program for each array did: some began on one device, others on the other, none ended."""
    flags = "--xla_force_host_platform_device_count=2"
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=30"
    env = {"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", CROWDED], env=env, check=False, capture_output=True, text=True
    )
    assert done.stdout.split() == ["40"] * 3, done.stderr[-2000:]
