"""The 16-channel autoencoder of SD3: images to latents at one eighth of the size, and back.

Source: diffusers `AutoencoderKL` (no quant convolutions); Rombach et al. 2022, arXiv:2112.10752.
Letters: b batch, h w spatial, c channels. Images are in [-1, 1], channel-last.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from flashjax.models.layers import apply
from flashjax.types import Params


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of one autoencoder, with the scale and shift of its latents."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    groups: int = 32
    latent_channels: int = 16
    scaling_factor: float = 1.5305
    shift_factor: float = 0.0609

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return 2 ** (len(self.channels) - 1)


zeros = nn.initializers.zeros_init()
default = nn.initializers.lecun_normal()


def conv(
    channels: int, name: str, *, size: int = 3, init: nn.initializers.Initializer = default
) -> nn.Conv:
    """A same-size convolution."""
    padding = (size - 1) // 2
    return nn.Conv(channels, (size, size), padding=padding, kernel_init=init, name=name)


class GroupNorm(nn.Module):
    """Group norm over space and channel groups, from per-channel moments.

    Only "b c" moments are regrouped, never the picture: on CPU that is several times faster than
    `nn.GroupNorm`, whose reshape of the picture costs a copy.
    """

    groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))

        def pooled(moment: Array) -> Array:
            grouped = moment.reshape(-1, self.groups, channels // self.groups)
            mean = jnp.mean(grouped, axis=-1, keepdims=True)
            return jnp.broadcast_to(mean, grouped.shape).reshape(moment.shape)

        mean = pooled(jnp.mean(x, axis=(1, 2)))
        variance = pooled(jnp.mean(jnp.square(x - mean[:, None, None]), axis=(1, 2)))
        gain = scale * jax.lax.rsqrt(variance + self.epsilon)
        return x * gain[:, None, None] + (bias - mean * gain)[:, None, None]


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, twice, around a shortcut."""

    channels: int
    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        norm1 = GroupNorm(self.groups, name="norm1")
        norm2 = GroupNorm(self.groups, name="norm2")
        y = conv(self.channels, "conv1")(jax.nn.silu(norm1(x)))
        # A new block starts as the identity: colours are learnt in minutes, not hours.
        y = conv(self.channels, "conv2", init=zeros)(jax.nn.silu(norm2(y)))
        if x.shape[-1] != self.channels:
            x = conv(self.channels, "shortcut", size=1)(x)
        return x + y


class UpsampleConv(nn.Module):
    """Nearest-neighbour upsampling by two, then a 3x3 convolution, at the low resolution.

    An output pixel sees 2x2 low-resolution pixels only: along each side, kernel rows (0, 1 + 2) for
    even and (0 + 1, 2) for odd pixels. Four 2x2 kernels take 4/9 of the work of the two steps.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, inputs = x.shape
        kernel = self.param("kernel", default, (3, 3, inputs, self.channels))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.channels,))
        merge = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
        phases = jnp.einsum("pak,qbl,klio->abipqo", merge, merge, kernel)
        y = jax.lax.conv_general_dilated(
            jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
            phases.reshape(2, 2, inputs, -1),
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).reshape(batch, height + 1, width + 1, 2, 2, self.channels)
        # Odd pixels see the next low-resolution pixel, so their window starts one later.
        rows = jnp.stack([y[:, :-1, :, 0], y[:, 1:, :, 1]], axis=2)
        both = jnp.stack([rows[:, :, :, :-1, 0], rows[:, :, :, 1:, 1]], axis=4)
        return both.reshape(batch, 2 * height, 2 * width, self.channels) + bias


class AttentionBlock(nn.Module):
    """Single-head attention over all positions."""

    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape, width = x.shape, x.shape[-1]
        tokens = GroupNorm(self.groups, name="norm")(x)
        tokens = tokens.reshape(shape[0], -1, 1, width)
        q, k, v = (nn.Dense(width, name=name)(tokens) for name in ("q", "k", "v"))
        attended = jax.nn.dot_product_attention(q, k, v)
        return x + nn.Dense(width, kernel_init=zeros, name="proj")(attended).reshape(shape)


class MidBlock(nn.Module):
    """resnet, attention, resnet at the lowest resolution."""

    channels: int
    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = ResnetBlock(self.channels, self.groups, name="resnet_0")(x)
        x = AttentionBlock(self.groups, name="attention")(x)
        return ResnetBlock(self.channels, self.groups, name="resnet_1")(x)


class Encoder(nn.Module):
    """Image to the mean and log-variance of its latents, "b h w 2c"."""

    config: VAEConfig

    @nn.compact
    def __call__(self, image: Array) -> Array:
        config = self.config
        x = conv(config.channels[0], "conv_in")(image)
        for level, channels in enumerate(config.channels):
            for index in range(config.layers):
                x = ResnetBlock(channels, config.groups, name=f"down_{level}_resnet_{index}")(x)
            if level < len(config.channels) - 1:
                # The reference pads right and bottom only, then takes a strided valid convolution.
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
                x = nn.Conv(channels, (3, 3), 2, padding="VALID", name=f"down_{level}_conv")(x)
        x = MidBlock(config.channels[-1], config.groups, name="mid")(x)
        x = jax.nn.silu(GroupNorm(config.groups, name="norm_out")(x))
        return conv(2 * config.latent_channels, "conv_out")(x)


class Decoder(nn.Module):
    """Latents to an image."""

    config: VAEConfig

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        config = self.config
        x = conv(config.channels[-1], "conv_in")(latents)
        x = MidBlock(config.channels[-1], config.groups, name="mid")(x)
        for level, channels in enumerate(reversed(config.channels)):
            for index in range(config.layers + 1):
                x = ResnetBlock(channels, config.groups, name=f"up_{level}_resnet_{index}")(x)
            if level < len(config.channels) - 1:
                x = UpsampleConv(channels, name=f"up_{level}_conv")(x)
        x = jax.nn.silu(GroupNorm(config.groups, name="norm_out")(x))
        return conv(3, "conv_out")(x)


class VAE(nn.Module):
    """Encoder and decoder with the scale and shift between raw latents and model space."""

    config: VAEConfig

    def setup(self) -> None:
        self.encoder, self.decoder = Encoder(self.config), Decoder(self.config)

    def moments(self, image: Array) -> tuple[Array, Array]:
        """Mean and log-variance of the raw latents."""
        mean, log_variance = jnp.split(self.encoder(image), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def encode(self, image: Array) -> Array:
        """The mean latents of images "b h w 3", in model space."""
        return (self.moments(image)[0] - self.config.shift_factor) * self.config.scaling_factor

    def decode_raw(self, raw: Array) -> Array:
        """Images of raw latents, as the training loss sees them."""
        return self.decoder(raw)

    def decode(self, latents: Array) -> Array:
        """Images "b h w 3" in [-1, 1] of model-space latents."""
        return self.decoder(latents / self.config.scaling_factor + self.config.shift_factor)

    def __call__(self, image: Array) -> Array:
        return self.decode(self.encode(image))


def encode(config: VAEConfig, params: Params, image: Array) -> Array:
    """Model-space latents of images "b h w 3" in [-1, 1]."""
    return apply(VAE(config), params, image, method="encode")


def decode(config: VAEConfig, params: Params, latents: Array) -> Array:
    """Images "b h w 3", clipped to [-1, 1], of model-space latents."""
    return jnp.clip(apply(VAE(config), params, latents, method="decode"), -1.0, 1.0)
