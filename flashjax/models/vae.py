"""The 16-channel autoencoder of SD3: images to latents at one eighth of the size, and back.

Source: diffusers `AutoencoderKL` (no quant convolutions); Rombach et al. 2022, arXiv:2112.10752.
Letters: b batch, h w spatial, c channels. Images are in [-1, 1], channel-last.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from flashjax.models.convolutions import Conv3x3, UpsampleConv
from flashjax.models.layers import apply, zeros
from flashjax.models.parameters import parameter
from flashjax.types import Count, Params, Positive


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of one autoencoder, with the scale and shift of its latents."""

    channels: tuple[Count, ...] = (128, 256, 512, 512)
    layers: Count = 2
    groups: Count = 32
    latent_channels: Count = 16
    scaling_factor: Positive = 1.5305
    shift_factor: float = 0.0609

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return 2 ** (len(self.channels) - 1)


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
        scale = parameter(self, "scale", nn.initializers.ones_init(), (channels,))
        bias = parameter(self, "bias", zeros, (channels,))

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
        y = Conv3x3(self.channels, name="conv1")(jax.nn.silu(norm1(x)))
        # A new block starts as the identity: colours are learnt in minutes, not hours.
        y = Conv3x3(self.channels, kernel_init=zeros, name="conv2")(jax.nn.silu(norm2(y)))
        if x.shape[-1] != self.channels:
            x = nn.Conv(self.channels, (1, 1), name="shortcut")(x)
        return x + y


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
        x = Conv3x3(config.channels[0], name="conv_in")(image)
        for level, channels in enumerate(config.channels):
            for index in range(config.layers):
                x = ResnetBlock(channels, config.groups, name=f"down_{level}_resnet_{index}")(x)
            if level < len(config.channels) - 1:
                # The reference pads right and bottom only, then takes a strided valid convolution.
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
                x = nn.Conv(channels, (3, 3), 2, padding="VALID", name=f"down_{level}_conv")(x)
        x = MidBlock(config.channels[-1], config.groups, name="mid")(x)
        x = jax.nn.silu(GroupNorm(config.groups, name="norm_out")(x))
        return Conv3x3(2 * config.latent_channels, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents to an image."""

    config: VAEConfig

    @nn.compact
    def __call__(self, latents: Array) -> Array:
        config = self.config
        x = Conv3x3(config.channels[-1], name="conv_in")(latents)
        x = MidBlock(config.channels[-1], config.groups, name="mid")(x)
        for level, channels in enumerate(reversed(config.channels)):
            for index in range(config.layers + 1):
                x = ResnetBlock(channels, config.groups, name=f"up_{level}_resnet_{index}")(x)
            if level < len(config.channels) - 1:
                x = UpsampleConv(channels, name=f"up_{level}_conv")(x)
        x = jax.nn.silu(GroupNorm(config.groups, name="norm_out")(x))
        return Conv3x3(3, name="conv_out")(x)


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
