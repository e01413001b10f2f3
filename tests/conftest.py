"""Eight simulated CPU devices for every test: the mesh tests need them, the others do not mind."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import pytest


@pytest.fixture
def key() -> jax.Array:
    """A typed random key; the same one in every test."""
    return jax.random.key(0)
