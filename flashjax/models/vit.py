"""One vision transformer for the towers that judge pictures: CLIP's (L/14, H/14) and DINOv2's.

Source: Dosovitskiy et al. 2021, arXiv:2010.11929; Radford et al. 2021, arXiv:2103.00020; Oquab et
al. 2023, arXiv:2304.07193; transformers `CLIPVisionModelWithProjection` and `Dinov2Model`.
Letters: b batch, H W pixels, y x rows and columns of patches, n tokens, d width, p projected width.
"""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.models.clip import ACTIVATIONS
from flashjax.models.layers import Dense, attend, scanned
from flashjax.types import InputError


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of one tower, and where CLIP and DINOv2 differ.

    Attributes:
      side: of the square pictures that the position table was made for.
      norm_first: whether tokens are normed before the first block (CLIP).
      patch_bias: whether patches have a bias (DINOv2).
      layer_scale: whether each residual branch is scaled (DINOv2).
      projection: the width that the class token is mapped to (CLIP); 0 is none.
    """

    side: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    activation: str
    epsilon: float
    norm_first: bool = False
    patch_bias: bool = False
    layer_scale: bool = False
    projection: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads or self.side % self.patch:
            raise InputError(
                f"a vision transformer of width {self.width} with {self.heads} heads and pictures "
                f"of {self.side} px in patches of {self.patch}: neither may leave a rest"
            )

    @property
    def grid(self) -> int:
        """Patches along each side of the position table."""
        return self.side // self.patch


class ViTBlock(nn.Module):
    """Pre-norm attention and MLP."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, None]:
        """Tokens "b n d" after the block."""
        config = self.config
        norm = functools.partial(nn.LayerNorm, epsilon=config.epsilon)
        heads = (3, config.heads, config.width // config.heads)
        qkv = Dense(heads, (None, "heads", None), name="qkv")(norm(name="norm1")(x))
        attended = attend(*jnp.moveaxis(qkv, 2, 0))
        attended = Dense((config.width,), ("width",), contract=2, name="proj")(attended)
        x = x + self._scaled("scale1", attended)
        hidden = Dense((config.hidden,), ("hidden",), name="fc1")(norm(name="norm2")(x))
        hidden = ACTIVATIONS[config.activation](hidden)
        hidden = Dense((config.width,), ("width",), name="fc2")(hidden)
        return x + self._scaled("scale2", hidden), None

    def _scaled(self, name: str, branch: Array) -> Array:
        if not self.config.layer_scale:
            return branch
        return branch * self.param(name, nn.initializers.ones_init(), (self.config.width,))


class ViT(nn.Module):
    """Normalised pictures "b H W 3" to the class token "b d" after the last norm, or "b p"."""

    config: ViTConfig

    @nn.compact
    def __call__(self, images: Array) -> Array:
        config = self.config
        normal = nn.initializers.normal(0.02)
        token = self.param("class", normal, (config.width,))
        table = self.param("positions", normal, (1 + config.grid**2, config.width))
        patches = Dense(
            (config.width,), ("width",), contract=3, use_bias=config.patch_bias, name="patches"
        )(_patches(images, config.patch))
        x = patches.reshape(len(images), -1, config.width)
        rows, columns = patches.shape[1:3]
        x = x + resized_positions(table[1:], config.grid, rows, columns)
        first = jnp.broadcast_to(token + table[0], (len(x), 1, config.width))
        x = jnp.concatenate([first, x], axis=1)
        norm = functools.partial(nn.LayerNorm, epsilon=config.epsilon)
        if config.norm_first:
            x = norm(name="norm_first")(x)
        x, _ = scanned(ViTBlock, config.depth)(config, name="blocks")(x)
        pooled = norm(name="norm")(x[:, 0])
        if config.projection:
            project = Dense((config.projection,), ("width",), use_bias=False, name="projection")
            pooled = project(pooled)
        return pooled


def _patches(images: Array, patch: int) -> Array:
    """Pictures "b H W 3" as "b y x patch patch 3"; sides that are no multiple are a ValueError."""
    batch, height, width, channels = images.shape
    cut = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return jnp.moveaxis(cut, 3, 2)


def resized_positions(table: Array, grid: int, rows: int, columns: int) -> Array:
    """The positions "grid*grid d" of a square for `rows` by `columns` patches: "rows*columns d".

    Bicubic as torch's `interpolate` has it: no antialiasing, borders repeated.
    """
    if (rows, columns) == (grid, grid):
        return table
    square = table.reshape(grid, grid, -1)
    down, across = cubic_weights(grid, rows), cubic_weights(grid, columns)
    return jnp.einsum("iy,jx,yxd->ijd", down, across, square).reshape(rows * columns, -1)


def cubic_weights(inputs: int, outputs: int) -> np.ndarray:
    """The matrix "outputs inputs" of bicubic interpolation.

    Source: Keys 1981, with the a = -0.75 that torch uses; pixels have their centres at halves.
    """
    a = -0.75
    centres = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
    taps = np.floor(centres)[:, None].astype(int) + np.arange(-1, 3)
    x = np.abs(centres[:, None] - taps)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weights = np.zeros((outputs, inputs))
    rows = np.broadcast_to(np.arange(outputs)[:, None], taps.shape)
    np.add.at(weights, (rows, np.clip(taps, 0, inputs - 1)), np.where(x <= 1, near, far))
    return weights.astype(np.float32)
