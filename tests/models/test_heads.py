"""The adversarial heads against torch's convolutions, and their independence of each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flashjax.models.heads import Heads, HeadsConfig
from flashjax.parallel.layout import REPLICATED
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import Constraint

TAPS, BATCH, ROWS, COLUMNS, WIDTH, HIDDEN = 2, 3, 4, 6, 8, 5
MODEL = Heads(HeadsConfig(taps=(0, 2), width=HIDDEN))
judge = jax.jit(lambda params, tokens: MODEL.apply({"params": params}, tokens, rows=ROWS))


@pytest.fixture(scope="module")
def tokens():
    """Image tokens of two taps on a grid that is not square."""
    return jax.random.normal(jax.random.key(1), (TAPS, BATCH, ROWS * COLUMNS, WIDTH))


@pytest.fixture(scope="module")
def params(tokens):
    """Heads as they are drawn, with biases that are not zero."""
    drawn = jax.jit(lambda key: MODEL.init(key, tokens, rows=ROWS))(jax.random.key(0))["params"]
    return jax.tree.map(lambda leaf: leaf + 0.1, drawn)


def torch_head(params, tap, tokens):
    """One head, channel-first: norm, 1x1, SiLU, 4x4 with stride 2, norm, SiLU, 1x1."""

    def conv(name, x, **kwargs):
        kernel, bias = (np.asarray(params["pool"][name][part][tap]) for part in ("kernel", "bias"))
        kernel = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        return F.conv2d(x, torch.tensor(kernel), torch.tensor(bias), **kwargs)

    def norm(x):
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-6).movedim(-1, 1)

    x = torch.tensor(np.asarray(tokens[tap])).reshape(BATCH, ROWS, COLUMNS, WIDTH).movedim(-1, 1)
    x = F.silu(conv("squeeze", norm(x)))
    x = F.silu(norm(conv("look", x, stride=2, padding=1)))
    return conv("judge", x).movedim(1, -1).numpy()


def test_every_head_is_torchs_on_its_own_tap(params, tokens):
    logits = judge(params, tokens)
    assert logits.shape == (TAPS, BATCH, ROWS // 2, COLUMNS // 2, 1)
    for tap in range(TAPS):
        np.testing.assert_allclose(logits[tap], torch_head(params, tap, tokens), atol=2e-5)


def test_heads_are_drawn_apart_and_stacked(params):
    for leaf in jax.tree.leaves(params):
        assert leaf.shape[0] == TAPS
    kernels = params["pool"]["look"]["kernel"]
    assert np.all(kernels[0] != kernels[1])


def test_a_head_reads_neither_the_other_tap_nor_the_other_head(params, tokens):
    want = judge(params, tokens)
    other_tap = judge(params, tokens.at[1].multiply(-1.0))
    other_head = judge(jax.tree.map(lambda leaf: leaf.at[1].add(1.0), params), tokens)
    for got in (other_tap, other_head):
        np.testing.assert_array_equal(got[0], want[0])
        assert np.any(got[1] != want[1])


def test_half_precision_tokens_are_judged_in_fp32(params, tokens):
    assert judge(params, tokens.astype(jnp.bfloat16)).dtype == jnp.float32


def test_kernel_gradients_do_not_depend_on_the_mesh(params, tokens):
    """A convolution under vmap counts them once per device that repeats the batch."""

    def gradient(sizes):
        mesh = make_mesh(sizes)
        model = Heads(MODEL.config, constrain=Constraint(mesh, REPLICATED))

        def loss(params, tokens):
            return jnp.mean(jnp.sin(model.apply({"params": params}, tokens, rows=ROWS)))

        split = NamedSharding(mesh, P(None, ("data", "fsdp")))
        even = jax.device_put(jnp.concatenate([tokens, tokens], axis=1)[:, :4], split)
        whole = NamedSharding(mesh, P())
        return jax.jit(jax.grad(loss), out_shardings=whole)(jax.device_put(params, whole), even)

    one, eight = gradient({}), gradient({"data": 2, "fsdp": 2, "tensor": 2})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), eight, one)
