"""InceptionV3 as FID knows it: the network of 2015-12-05 that was ported from TensorFlow.

It is not torchvision's: pools do not count their padding, the last block pools by the maximum, and
there are 1008 classes. Names are those of its PyTorch ports.
Source: Szegedy et al. 2015, arXiv:1512.00567; Heusel et al. 2017, arXiv:1706.08500; the
architecture of torch-fidelity's `FeatureExtractorInceptionV3`.
Letters: b batch, h w spatial, c channels.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

SIDE = 299
FEATURES, CLASSES = 2048, 1008
EPSILON = 1e-3  # of all batch norms


@dataclass(frozen=True)
class Conv:
    """A convolution, its norm and a ReLU. With a `stride` unpadded; else the size stays."""

    name: str
    channels: int
    height: int
    width: int
    stride: int | None = None


# Steps one after the other; a list holds convolutions side by side; a word is a pool of POOLS.
Branch: TypeAlias = tuple[Conv | list[Conv] | str, ...]


def _a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 64, 1, 1),),
        (Conv("branch5x5_1", 48, 1, 1), Conv("branch5x5_2", 64, 5, 5)),
        (
            Conv("branch3x3dbl_1", 64, 1, 1),
            Conv("branch3x3dbl_2", 96, 3, 3),
            Conv("branch3x3dbl_3", 96, 3, 3),
        ),
        ("mean", Conv("branch_pool", pooled, 1, 1)),
    )


def _c(inner: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 192, 1, 1),),
        (
            Conv("branch7x7_1", inner, 1, 1),
            Conv("branch7x7_2", inner, 1, 7),
            Conv("branch7x7_3", 192, 7, 1),
        ),
        (
            Conv("branch7x7dbl_1", inner, 1, 1),
            Conv("branch7x7dbl_2", inner, 7, 1),
            Conv("branch7x7dbl_3", inner, 1, 7),
            Conv("branch7x7dbl_4", inner, 7, 1),
            Conv("branch7x7dbl_5", 192, 1, 7),
        ),
        ("mean", Conv("branch_pool", 192, 1, 1)),
    )


def _e(pool: str) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 320, 1, 1),),
        (
            Conv("branch3x3_1", 384, 1, 1),
            [Conv("branch3x3_2a", 384, 1, 3), Conv("branch3x3_2b", 384, 3, 1)],
        ),
        (
            Conv("branch3x3dbl_1", 448, 1, 1),
            Conv("branch3x3dbl_2", 384, 3, 3),
            [Conv("branch3x3dbl_3a", 384, 1, 3), Conv("branch3x3dbl_3b", 384, 3, 1)],
        ),
        (pool, Conv("branch_pool", 192, 1, 1)),
    )


_B: tuple[Branch, ...] = (
    (Conv("branch3x3", 384, 3, 3, stride=2),),
    (
        Conv("branch3x3dbl_1", 64, 1, 1),
        Conv("branch3x3dbl_2", 96, 3, 3),
        Conv("branch3x3dbl_3", 96, 3, 3, stride=2),
    ),
    ("halve",),
)
_D: tuple[Branch, ...] = (
    (Conv("branch3x3_1", 192, 1, 1), Conv("branch3x3_2", 320, 3, 3, stride=2)),
    (
        Conv("branch7x7x3_1", 192, 1, 1),
        Conv("branch7x7x3_2", 192, 1, 7),
        Conv("branch7x7x3_3", 192, 7, 1),
        Conv("branch7x7x3_4", 192, 3, 3, stride=2),
    ),
    ("halve",),
)
STEM: Branch = (
    Conv("Conv2d_1a_3x3", 32, 3, 3, stride=2),
    Conv("Conv2d_2a_3x3", 32, 3, 3, stride=1),
    Conv("Conv2d_2b_3x3", 64, 3, 3),
    "halve",
    Conv("Conv2d_3b_1x1", 80, 1, 1),
    Conv("Conv2d_4a_3x3", 192, 3, 3, stride=1),
    "halve",
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _D,
    "Mixed_7b": _e("mean"),
    "Mixed_7c": _e("max"),
}


class Inception(nn.Module):
    """Pictures "b 299 299 3" in [-1, 1] to (features "b 2048", logits "b 1008")."""

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        x = _along(STEM, images)
        for name in BLOCKS:
            x = Mixed(name, name=name)(x)
        features = x.mean((1, 2))
        return features, nn.Dense(CLASSES, name="fc")(features)


class Mixed(nn.Module):
    """The branches of a block, their channels one after the other."""

    block: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([_along(branch, x) for branch in BLOCKS[self.block]], -1)


class ConvNorm(nn.Module):
    """What a `Conv` describes."""

    conv: Conv

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = self.conv
        padding, stride = ("SAME", 1) if conv.stride is None else ("VALID", conv.stride)
        kernel = conv.height, conv.width
        x = nn.Conv(conv.channels, kernel, stride, padding, use_bias=False, name="conv")(x)
        return nn.relu(FixedNorm(name="bn")(x))


class FixedNorm(nn.Module):
    """A batch norm whose moments are parameters: the network is never trained."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
        channels = x.shape[-1:]
        mean, variance = self.param("mean", zeros, channels), self.param("variance", ones, channels)
        scale, bias = self.param("scale", ones, channels), self.param("bias", zeros, channels)
        return (x - mean) * (jax.lax.rsqrt(variance + EPSILON) * scale) + bias


def mean_pool(x: Array) -> Array:
    """The mean of each pixel and its neighbours: of as many as there are."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


POOLS: dict[str, Callable[[Array], Array]] = {
    "mean": mean_pool,
    "max": functools.partial(nn.max_pool, window_shape=(3, 3), padding="SAME"),
    "halve": functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2)),
}


def _along(branch: Branch, x: Array) -> Array:
    """The steps of a branch; the module that this is called in owns its convolutions."""
    for step in branch:
        if isinstance(step, str):
            x = POOLS[step](x)
        elif isinstance(step, list):
            x = jnp.concatenate([ConvNorm(conv, name=conv.name)(x) for conv in step], -1)
        else:
            x = ConvNorm(step, name=step.name)(x)
    return x
