"""Large pictures decoded tile by tile, so that memory does not grow with their size.

Source: diffusers `AutoencoderKL.tiled_decode`. Letters: b batch, h w spatial, c channels.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from flashjax.models.layers import apply
from flashjax.models.vae import VAE, VAEConfig
from flashjax.types import InputError, Params


def tiled_decode(config: VAEConfig, params: Params, latents: Array, *, tile: int = 128) -> Array:
    """Images "b h w 3", clipped to [-1, 1], of model-space latents of any size.

    Square tiles of `tile` latent pixels overlap by a quarter and are blended linearly. Tiles at the
    right and bottom are as small as what is left; each size of a tile is one program. Norms and
    attention see one tile at a time, so pictures differ a little from `vae.decode`'s, except where
    one tile is enough. InputError for a `tile` that has no quarter.
    """
    if tile < 4 or tile % 4:
        raise InputError(f"tile={tile} latent pixels cannot overlap by a quarter: take 4, 8, 12, …")
    height, width = latents.shape[1:3]
    if max(height, width) <= tile:
        return jnp.clip(_decode(config, params, latents), -1.0, 1.0)
    stride, overlap = 3 * tile // 4, config.factor * tile // 4
    kept = config.factor * stride
    rows: list[Array] = []
    above: list[Array] = []
    for top in range(0, height, stride):
        row: list[Array] = []
        for column, left in enumerate(range(0, width, stride)):
            part = latents[:, top : top + tile, left : left + tile]
            image = _decode(config, params, part)
            if above:
                image = _blend(above[column], image, overlap, axis=1)
            if row:
                image = _blend(row[-1], image, overlap, axis=2)
            row.append(image)
        rows.append(jnp.concatenate([image[:, :kept, :kept] for image in row], axis=2))
        above = row
    return jnp.clip(jnp.concatenate(rows, axis=1), -1.0, 1.0)


@functools.partial(jax.jit, static_argnums=0)
def _decode(config: VAEConfig, params: Params, latents: Array) -> Array:
    """One tile, not clipped: tiles are blended first."""
    return apply(VAE(config), params, latents, method="decode")


def _blend(before: Array, image: Array, overlap: int, *, axis: int) -> Array:
    """`image`, whose first `overlap` lines along `axis` fade in from the last ones of `before`."""
    overlap = min(overlap, before.shape[axis], image.shape[axis])
    ramp = jnp.expand_dims(jnp.arange(overlap) / overlap, range(1, image.ndim - axis))
    end = jax.lax.slice_in_dim(before, before.shape[axis] - overlap, None, axis=axis)
    start, rest = jnp.split(image, [overlap], axis=axis)
    return jnp.concatenate([end * (1.0 - ramp) + start * ramp, rest], axis=axis)
