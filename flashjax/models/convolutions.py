"""Convolutions of pictures, in forms that cost less than their definition.

Letters: b batch, h w spatial, c channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from flashjax.models.layers import fan_in, zeros
from flashjax.models.parameters import parameter

NARROW = 32  # channels: below these a CPU's matrix products are mostly overhead


class Conv3x3(nn.Module):
    """A same-size 3x3 convolution; several pixels of a row at once where channels are few."""

    channels: int
    kernel_init: nn.initializers.Initializer = fan_in

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs = x.shape[-1]
        kernel = parameter(self, "kernel", self.kernel_init, (3, 3, inputs, self.channels))
        bias = parameter(self, "bias", zeros, (self.channels,))
        if max(inputs, self.channels) < NARROW:
            return convolve_narrow(x, kernel) + bias
        return convolve(x, kernel) + bias


def convolve(x: Array, kernel: Array) -> Array:
    """A same-size convolution of x "b h w c" with a kernel "3 3 c d"."""
    return _convolve(x, kernel, (1, 1))


@jax.custom_vjp
def convolve_narrow(x: Array, kernel: Array) -> Array:
    """`convolve` for few channels, by a kernel that makes `pixels` of a row as channels.

    It is `pixels + 2` wide and moves by `pixels`: more products in all, but of matrices with
    `NARROW` columns, from patches that overlap less. Its output is the row again as it lies.
    """
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[-1]
    pixels = _pixels(width, outputs)
    wide = jnp.zeros((3, pixels + 2, inputs, pixels, outputs), kernel.dtype)
    for pixel in range(pixels):
        wide = wide.at[:, pixel : pixel + 3, :, pixel].set(kernel)
    y = _convolve(x, wide.reshape(3, pixels + 2, inputs, pixels * outputs), (1, pixels))
    return y.reshape(batch, height, width, outputs)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_narrow(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # A kernel that moves by several pixels has a slow gradient: a convolution with gaps.
    return jax.vjp(convolve, *kept)[1](gradient)


convolve_narrow.defvjp(_forward, _backward)


def _pixels(width: int, outputs: int) -> int:
    """How many pixels fill `NARROW` columns, as a power of two that divides the width."""
    pixels = 1
    while 2 * pixels * outputs <= NARROW and width % (2 * pixels) == 0:
        pixels *= 2
    return pixels


def _convolve(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class UpsampleConv(nn.Module):
    """Nearest-neighbour upsampling by two, then a 3x3 convolution, at the low resolution.

    An output pixel sees 2x2 low-resolution pixels only: along each side, kernel rows (0, 1 + 2) for
    even and (0 + 1, 2) for odd pixels. Four 2x2 kernels take 4/9 of the work of the two steps.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, inputs = x.shape
        kernel = parameter(self, "kernel", fan_in, (3, 3, inputs, self.channels))
        bias = parameter(self, "bias", zeros, (self.channels,))
        merge = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
        phases = jnp.einsum("pak,qbl,klio->abipqo", merge, merge, kernel)
        y = _convolve(x, phases.reshape(2, 2, inputs, -1), (1, 1))
        y = y.reshape(batch, height + 1, width + 1, 2, 2, self.channels)
        # Odd pixels see the next low-resolution pixel, so their window starts one later.
        rows = jnp.stack([y[:, :-1, :, 0], y[:, 1:, :, 1]], axis=2)
        both = jnp.stack([rows[:, :, :, :-1, 0], rows[:, :, :, 1:, 1]], axis=4)
        return both.reshape(batch, 2 * height, 2 * width, self.channels) + bias
