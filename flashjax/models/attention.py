"""Attention by the best program of the machine: XLA's own, Pallas splash on TPU, cuDNN on GPU.

One signature, equal results: softmax without mask over "b n h k", scaled by 1/sqrt(k).
Letters: b batch, n tokens, h heads, k head width.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh

from flashjax.models.layers import Attend, attend
from flashjax.parallel.sharding import Rules, activation_spec, free_axes, mesh_here
from flashjax.types import InputError

LANES = 128  # the kernel's tiles are multiples of this many tokens
TILE = 512
BACKENDS = ("xla", "splash", "cudnn")


def attend_on(mesh: Mesh, rules: Rules, backend: str, *, interpret: bool = False) -> Attend:
    """The attention of a mesh: `backend` is "xla", "splash" (TPU) or "cudnn" (GPU).

    The kernels see whole sequences of the heads and samples of their own device. `interpret` runs
    the TPU kernel on any machine, slowly. InputError for an unknown backend.
    """
    if backend == "xla":
        return attend
    local: Attend
    if backend == "splash":
        local = functools.partial(splash_attend, interpret=interpret)
    elif backend == "cudnn":
        local = cudnn_attend
    else:
        raise InputError(f"compute.attention={backend}: choose xla, splash (TPU) or cudnn (GPU)")

    def on_devices(q: Array, k: Array, v: Array) -> Array:
        here = mesh_here(mesh)
        spec = activation_spec(rules, here, ("batch", None, "attended_heads", None))
        program = jax.shard_map(
            local,
            mesh=here,
            in_specs=(spec, spec, spec),
            out_specs=spec,
            axis_names=free_axes(here),  # a kernel needs every axis manual
            check_vma=False,
        )
        return program(q, k, v)

    return on_devices


def splash_attend(q: Array, k: Array, v: Array, *, interpret: bool = False) -> Array:
    """Pallas splash attention; what pads a sequence to whole tiles attends to itself only."""
    _, n, heads, width = q.shape
    tile = min(TILE, -(-n // LANES) * LANES)
    padded = -(-n // tile) * tile
    kernel = splash.make_splash_mha_single_device(
        mask=masks.MultiHeadMask([masks.FullMask((padded, padded))] * heads),
        block_sizes=_blocks(tile),
        residual_checkpoint_name="attended",  # what remat="attention" keeps
        interpret=interpret,
    )
    pad = ((0, 0), (0, 0), (0, padded - n), (0, 0))
    q, k, v = (jnp.pad(x.swapaxes(1, 2), pad) for x in (q * width**-0.5, k, v))
    padding = (jnp.arange(padded) >= n).astype(jnp.int32)
    segments = splash.SegmentIds(q=padding, kv=padding) if padded > n else None
    attended = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)
    return attended[:, :, :n].swapaxes(1, 2).astype(v.dtype)


def cudnn_attend(
    q: Array, k: Array, v: Array, *, implementation: Literal["cudnn", "xla"] = "cudnn"
) -> Array:
    """cuDNN's fused attention; it wants an even number of tokens, so an odd one is padded."""
    n = q.shape[1]
    attention = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
    if n % 2 == 0:
        return attention(q, k, v)
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    real = jnp.full(q.shape[:1], n, jnp.int32)
    return attention(q, k, v, query_seq_lengths=real, key_value_seq_lengths=real)[:, :n]


def _blocks(tile: int) -> splash.BlockSizes:
    return splash.BlockSizes(
        block_q=tile,
        block_kv=tile,
        block_q_dkv=tile,
        block_kv_dkv=tile,
        block_q_dq=tile,
        block_kv_dq=tile,
    )
