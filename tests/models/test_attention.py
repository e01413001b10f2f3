"""One attention, three programs: the TPU's and the GPU's against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from flashjax.models import layers
from flashjax.models.attention import attend_on, cudnn_attend
from flashjax.parallel.layout import MMDIT
from flashjax.parallel.mesh import make_mesh
from flashjax.types import InputError

SHAPE = (4, 150, 2, 16)  # 150 tokens do not fill two tiles


@pytest.fixture(scope="module")
def qkv():
    random = np.random.default_rng(0)
    return tuple(jnp.float32(random.normal(size=SHAPE)) for _ in range(3))


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)])
def test_attention_and_its_gradients_are_those_of_jax(qkv, dtype, atol):
    def outputs(attend):
        def loss(q, k, v):
            out = attend(q, k, v)
            return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*(x.astype(dtype) for x in qkv))

    pairs = zip(
        *(jax.tree.leaves(outputs(f)) for f in (jax.nn.dot_product_attention, layers.attend)),
        strict=True,
    )
    for want, got in pairs:
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), atol=atol)


def test_the_tpu_kernel_gives_the_same_numbers_and_gradients_on_a_mesh(qkv):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    splash = attend_on(mesh, MMDIT, "splash", interpret=True)
    plain = attend_on(mesh, MMDIT, "xla")

    def outputs(attend):
        def loss(q, k, v):
            out = attend(q, k, v)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*qkv)

    for want, got in zip(
        jax.tree.leaves(outputs(plain)), jax.tree.leaves(outputs(splash)), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("tokens", [128, 333])
def test_the_gpu_program_calls_cudnn_forward_and_backward(tokens, monkeypatch):
    """Lowered for a GPU that is not here; JAX only wants to know its versions."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    attend = attend_on(make_mesh({}), MMDIT, "cudnn")
    q, k, v = (jnp.zeros((2, tokens, 2, 64), jnp.bfloat16) for _ in range(3))

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v).astype(jnp.float32))

    text = jax.jit(jax.grad(loss)).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in text and "__cudnn$fmhaSoftmaxBackward" in text


def test_what_pads_an_odd_number_of_tokens_changes_nothing():
    """XLA's own attention takes the same arguments as cuDNN's, which is not here."""
    q, k, v = jax.random.normal(jax.random.key(1), (3, 2, 7, 2, 8))
    got = cudnn_attend(q, k, v, implementation="xla")
    np.testing.assert_allclose(got, jax.nn.dot_product_attention(q, k, v), atol=1e-6)


def test_an_unknown_program_is_named():
    with pytest.raises(InputError, match=r"compute\.attention=flash: choose xla"):
        attend_on(make_mesh({}), MMDIT, "flash")
