"""T5: distances are bucketed as transformers does, and its large values fit bfloat16."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from flashjax.models.layers import apply
from flashjax.models.t5 import T5Block, T5Config, T5Encoder, relative_buckets

CONFIG = T5Config(vocabulary=20, width=16, depth=2, heads=2, head_width=8, hidden=32)


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (16, 40)])
def test_every_distance_has_the_bucket_of_transformers(buckets, max_distance):
    distance = torch.arange(512)[None, :] - torch.arange(512)[:, None]
    want = T5Attention._relative_position_bucket(
        distance, bidirectional=True, num_buckets=buckets, max_distance=max_distance
    )
    np.testing.assert_array_equal(relative_buckets(512, buckets, max_distance), want)


def test_bfloat16_holds_what_float16_cannot(random_params):
    """As in the real weights, the MLP's output grows beyond float16."""
    ids = np.arange(12).reshape(2, 6)
    abstract = jax.eval_shape(T5Encoder(CONFIG).init, jax.random.key(0), ids)["params"]
    params = random_params(abstract, std=0.5)
    params["blocks"]["out"]["kernel"][0] *= 1e5
    first = jax.tree.map(lambda leaf: leaf[0], params["blocks"])

    def features(dtype):
        config = dataclasses.replace(CONFIG, dtype=dtype)
        x = params["tokens"][ids].astype(dtype)
        inner, _ = jax.jit(lambda x: apply(T5Block(config), first, x, jnp.zeros((1, 2, 6, 6))))(x)
        return jax.jit(lambda p: apply(T5Encoder(config), p, ids))(params), inner

    (want, _), (got, inner) = features(jnp.float32), features(jnp.bfloat16)
    assert got.dtype == inner.dtype == jnp.bfloat16
    assert np.abs(inner).max() > np.finfo(np.float16).max
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()
