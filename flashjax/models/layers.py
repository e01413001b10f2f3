"""Layers that transformer and text encoders share: projections, norms, attention, embeddings.

Letters: b batch, n tokens, d width, h heads, k head width, f frequencies.
"""

import dataclasses
import functools
import math
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer
from jax import Array

from flashjax.models.parameters import parameter
from flashjax.types import Constrain, InputError, Params, unconstrained

# Flax takes fields of a class away for a moment while it makes another of it, as a scan does each
# time it is traced: threads that trace take turns.
_TRACING = threading.RLock()


def apply(module: nn.Module, params: Params, *args: Any, **kwargs: Any) -> Any:
    """`module.apply` on bare parameters; Flax's own result type is a union that nobody can use."""
    with _TRACING:
        return module.apply({"params": params}, *args, **kwargs)


def init(module: nn.Module, key: Array, *args: Any, **kwargs: Any) -> Params:
    """New bare parameters of a module that is called with these arguments."""
    with _TRACING:
        return module.init(key, *args, **kwargs)["params"]


def check_dtype(dtype: Any) -> None:
    """InputError for a dtype that networks are not computed in.

    SD3.5's T5 overflows float16, and JAX's attention in float16 has no program for CPU and TPU.
    """
    if jnp.dtype(dtype).name not in ("float32", "bfloat16"):
        name = jnp.dtype(dtype).name
        raise InputError(f"networks are not computed in {name}: choose float32 or bfloat16")


Attend: TypeAlias = Callable[[Array, Array, Array], Array]  # q, k, v "b n h k" to "b n h k"
Names: TypeAlias = tuple[str | None, ...]
MOMENTS = "moments"  # the collection of what projections were given, kept only on demand


def _latest(_: Any, new: Array) -> Array:
    return new


def scanned(
    block: type[nn.Module], length: int, *, in_axes: Any = nn.broadcast, unroll: int = 1
) -> Callable:
    """`length` equal blocks as one scan: the program does not grow with them, but with `unroll`.

    Their parameters gain a leading depth dim. `block(carry, *inputs)` returns (carry, output);
    `in_axes` says which inputs are per block (0) and which are the same for all (nn.broadcast).
    A round of the scan is `unroll` blocks.
    """
    return nn.scan(
        block,
        variable_axes={"params": 0, MOMENTS: 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
        unroll=unroll,
    )


zeros = nn.initializers.zeros_init()
fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Dense(nn.Module):
    """A linear map whose output dims are named, so that a fused projection keeps its own dims.

    `shape` (3, h, k) turns "b n d" into "b n 3 h k"; `names` are the dims given to `constrain`
    after "batch" and "tokens". `contract` counts the input dims that are summed over, `inputs`
    names them.

    The kernel is stored in one layout and used in another: it is cast first and gathered then, so
    that the bytes on the wire are those of `dtype`.

    Applied with `mutable=MOMENTS` it also returns the second moments "in in" of its inputs.
    """

    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    contract: int = 1
    inputs: tuple[str | None, ...] | None = None
    use_bias: bool = True
    kernel_init: Initializer = fan_in
    dtype: jnp.dtype = jnp.float32
    sums: jnp.dtype | None = None  # what products are summed to; None is `dtype`
    gradients: jnp.dtype | None = None  # what those of weights are summed to; None is `dtype`
    constrain: Constrain = unconstrained

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs = x.shape[x.ndim - self.contract :]
        lead = x.shape[: x.ndim - self.contract]
        flat = math.prod(inputs), math.prod(self.shape)

        def init_kernel(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return self.kernel_init(key, flat, dtype).reshape(shape)

        kernel = parameter(self, "kernel", init_kernel, (*inputs, *self.shape))
        names = (*(self.inputs or (None,) * self.contract), *self.names)
        if self.is_mutable_collection(MOMENTS):
            rows = x.reshape(-1, flat[0]).astype(jnp.float32)
            self.sow(MOMENTS, "kernel", rows.T @ rows / len(rows), reduce_fn=_latest)
        x = x.reshape(*((-1,) if self.constrain.rows else lead), flat[0])
        y = self.product(x, kernel, names, flat).reshape(*lead, *self.shape)
        if self.use_bias:
            bias = parameter(self, "bias", zeros, self.shape)
            apart = self.gradients is not None
            y = add_bias(self.gradients, y, bias) if apart else y + bias.astype(y.dtype)
        leading = ("batch", "tokens")[: len(lead)]
        return self.constrain(y, *leading, *self.names)

    def product(self, x: Array, kernel: Array, names: Names, flat: tuple[int, int]) -> Array:
        """`x @ kernel`, with the kernel laid out by these names and cast."""
        if self.gradients is not None:
            sums = self.sums or self.dtype
            how = Apart(self.constrain, names, flat, self.dtype, sums, self.gradients)
            return multiply_apart(how, x, kernel)
        kernel = lay_out_for_use(self.constrain, names, kernel.astype(self.dtype)).reshape(flat)
        wide = self.sums is not None and jnp.dtype(self.sums) != jnp.dtype(self.dtype)
        return multiply(x, kernel, self.sums) if wide else x @ kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def multiply(x: Array, kernel: Array, sums: jnp.dtype) -> Array:
    """`x @ kernel`, "... i" and "i o", summed to `sums`; gradients are products of their own dtype.

    A product of two dtypes would be computed in the wider one, at a fraction of the speed.
    """
    return jnp.matmul(x, kernel, preferred_element_type=sums)


def _multiplied(x: Array, kernel: Array, sums: jnp.dtype) -> tuple[Array, tuple[Array, Array]]:
    # Not by its own name: what re-computation may keep is asked of products, not of calls.
    return jnp.matmul(x, kernel, preferred_element_type=sums), (x, kernel)


def _multiply_back(
    sums: jnp.dtype, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    gradient = gradient.astype(x.dtype)
    rows = tuple(range(x.ndim - 1))
    return gradient @ kernel.T, jnp.tensordot(x, gradient, axes=(rows, rows))


multiply.defvjp(_multiplied, _multiply_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def lay_out_for_use(constrain: Constrain, used: Names, kernel: Array) -> Array:
    """The kernel laid out by the names `used`; its gradient is left to the partitioner.

    JAX would lay the gradient out as the kernel is used: whole on every device.
    """
    return constrain(kernel, *used)


lay_out_for_use.defvjp(
    lambda constrain, used, kernel: (constrain(kernel, *used), None),
    lambda constrain, used, _, gradient: (gradient,),
)


@dataclasses.dataclass(frozen=True)
class Apart:
    """A product whose kernel has gradients of a dtype of their own: summed in it, over devices too.

    JAX's own have the dtype that the kernel is cast to, and are cast back when they are summed.
    """

    constrain: Constrain
    names: Names
    flat: tuple[int, int]  # the kernel's shape in the product
    dtype: jnp.dtype
    sums: jnp.dtype
    gradients: jnp.dtype

    def used(self, kernel: Array) -> Array:
        """The kernel as the product takes it."""
        return self.constrain(kernel.astype(self.dtype), *self.names).reshape(self.flat)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply_apart(how: Apart, x: Array, kernel: Array) -> Array:
    """`x @ kernel` of "... i" and the kernel as it is stored."""
    return jnp.matmul(x, how.used(kernel), preferred_element_type=how.sums)


def _multiplied_apart(how: Apart, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.matmul(x, how.used(kernel), preferred_element_type=how.sums), (x, kernel)


def _multiply_apart_back(
    how: Apart, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    gradient, rows = gradient.astype(x.dtype), tuple(range(x.ndim - 1))
    found = jnp.tensordot(x, gradient, (rows, rows), preferred_element_type=how.gradients)
    return gradient @ how.used(kernel).T, found.reshape(kernel.shape).astype(kernel.dtype)


multiply_apart.defvjp(_multiplied_apart, _multiply_apart_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def add_bias(gradients: jnp.dtype, y: Array, bias: Array) -> Array:
    """`y + bias`, "... o" and "o"; the bias' gradient is summed in a dtype of its own."""
    return y + bias.astype(y.dtype)


add_bias.defvjp(
    lambda _, y, bias: (y + bias.astype(y.dtype), bias),
    lambda gradients, bias, gradient: (
        gradient,
        jnp.sum(gradient, tuple(range(gradient.ndim - bias.ndim)), gradients).astype(bias.dtype),
    ),
)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dim, with the variance in fp32."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = parameter(self, "scale", nn.initializers.ones_init(), x.shape[-1:])
        x32 = x.astype(jnp.float32)
        variance = jnp.mean(x32 * x32, axis=-1, keepdims=True)
        return (x32 * jax.lax.rsqrt(variance + self.epsilon) * scale).astype(x.dtype)


def layer_norm(x: Array, epsilon: float = 1e-6) -> Array:
    """Layer norm without parameters, statistics in fp32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Adaptive layer norm: `x` is "b n d", `shift` and `scale` are "b d"."""
    return x * (1.0 + scale[:, None, :]) + shift[:, None, :]


def attend(q: Array, k: Array, v: Array) -> Array:
    """Softmax attention without mask over "b n h k", scaled by 1/sqrt(k); softmax in fp32."""
    return jax.nn.dot_product_attention(q, k, v)


def timestep_embedding(timestep: Array, width: int = 256) -> Array:
    """Sinusoids of `timestep` "b" as "b width", laid out [cos, sin].

    Source: Stability-AI/sd3.5 `TimestepEmbedder`; frequencies 10000^(-i / half).
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timestep.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_table(size: int, width: int) -> Array:
    """The fixed 2-D sin-cos table "size size width" of a new model: columns first, then rows.

    Released checkpoints bring their own table; it is loaded, never recomputed.
    Source: diffusers `get_2d_sincos_pos_embed`, base size = table size, scale 1.
    """
    omega = 10000.0 ** (-jnp.arange(width // 4, dtype=jnp.float32) / (width / 4))
    angles = jnp.arange(size, dtype=jnp.float32)[:, None] * omega[None, :]
    axis = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    columns = jnp.broadcast_to(axis[None, :, :], (size, size, width // 2))
    rows = jnp.broadcast_to(axis[:, None, :], (size, size, width // 2))
    return jnp.concatenate([columns, rows], axis=-1)


def centre_crop(table: Array, height: int, width: int) -> Array:
    """The centre "height width d" of a square position table."""
    top, left = (table.shape[0] - height) // 2, (table.shape[1] - width) // 2
    return table[top : top + height, left : left + width]
