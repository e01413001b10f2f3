"""Attention by the best program of the machine: XLA's own, Pallas splash on TPU, cuDNN on GPU.

One signature, equal results: softmax without mask over "b n h k", scaled by 1/sqrt(k).
Letters: b batch, n tokens, h heads, k head width.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from flashjax.models.layers import Attend, attend
from flashjax.parallel.sharding import Rules, activation_spec, free_axes, mesh_here
from flashjax.types import InputError

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
        from flashjax.models.splash import splash_attend  # Pallas takes a second to import

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
