"""Attention on TPU: Pallas' splash kernel, behind the signature of models/attention.py.

Letters: b batch, n tokens, h heads, k head width.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

LANES = 128  # the kernel's tiles are multiples of this many tokens
TILE = 512


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


def _blocks(tile: int) -> splash.BlockSizes:
    return splash.BlockSizes(
        block_q=tile,
        block_kv=tile,
        block_q_dkv=tile,
        block_kv_dkv=tile,
        block_q_dq=tile,
        block_kv_dq=tile,
    )
