"""MMDiT-X, the velocity model of SD3 and SD3.5.

Source: Esser et al. 2024, arXiv:2403.03206, section 4; Stability-AI/sd3.5 `mmditx.py`.
Letters: b batch, h w latent grid, c channels, n image tokens, m text tokens, d width, p pooled.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from flashjax.models import layers
from flashjax.models.layers import Attend, Dense, Names, RMSNorm, layer_norm, modulate
from flashjax.models.parameters import as_floats, held
from flashjax.models.remat import REMAT
from flashjax.types import Cond, Constrain, Count, InputError, Params, Whole, unconstrained


@dataclasses.dataclass(frozen=True)
class MMDiTConfig:
    """Sizes of one MMDiT-X; `dual` counts the leading blocks with a second image attention."""

    depth: Count
    heads: Count
    dual: Whole
    position_size: Count  # side of the stored square position table, in patches
    text_width: Count
    pooled_width: Count
    head_width: Count = 64
    channels: Count = 16
    patch: Count = 2
    mlp_ratio: Count = 4
    qk_norm: bool = True
    remat: str = "none"  # what the backward pass keeps of a block: a name of models/remat.REMAT
    unroll: Count = 1  # blocks of a round of the scan
    dtype: jnp.dtype = jnp.float32
    residual: jnp.dtype | None = None  # of the streams that blocks add to; None is `dtype`
    gradients: jnp.dtype | None = None  # that those of weights are summed to; None is `dtype`

    def __post_init__(self) -> None:
        layers.check_dtype(self.dtype)
        if self.remat not in REMAT:
            raise InputError(f"remat={self.remat!r}: choose of {', '.join(REMAT)}")
        if not 0 <= self.dual < self.depth:
            raise ValueError(
                f"dual={self.dual} blocks do not fit depth={self.depth}: the last block has no "
                "dual attention; set model.dual below model.depth"
            )

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.heads * self.head_width

    @property
    def sums(self) -> jnp.dtype:
        """The dtype of the streams, and of what is added to them."""
        return self.residual or self.dtype


def _dense(
    config: MMDiTConfig, constrain: Constrain, shape: tuple[int, ...], names: Names, **kwargs: Any
) -> Dense:
    """A projection as the network is computed."""
    dtype, gradients = config.dtype, config.gradients
    return Dense(shape, names, dtype=dtype, gradients=gradients, constrain=constrain, **kwargs)


class Stream(nn.Module):
    """One modality's half of a joint block: its own projections around a shared attention."""

    config: MMDiTConfig
    constrain: Constrain
    attend: Attend
    dual: bool = False  # a second self-attention over this stream alone
    only_context: bool = False  # the last block's text: read by attention, never written

    def setup(self) -> None:
        config, width = self.config, self.config.width
        chunks = 2 if self.only_context else 9 if self.dual else 6
        heads = (3, config.heads, config.head_width)
        head_names = (None, "heads", None)
        self.modulation = self.dense(
            (chunks, width),
            (None, "width"),
            inputs=("stored",),
            sums=config.sums,
            kernel_init=layers.zeros,
        )
        self.qkv = self.dense(heads, head_names)
        if config.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(), RMSNorm()
        if self.dual:
            self.qkv2 = self.dense(heads, head_names)
            self.proj2 = self.added(contract=2, inputs=("heads", None))
            if config.qk_norm:
                self.q_norm2, self.k_norm2 = RMSNorm(), RMSNorm()
        if not self.only_context:
            self.proj = self.added(contract=2, inputs=("heads", None))
            self.fc1 = self.dense((config.mlp_ratio * width,), ("hidden",))
            self.fc2 = self.added(inputs=("hidden",))

    def dense(self, shape: tuple[int, ...], names: tuple[str | None, ...], **kwargs) -> Dense:
        """A projection in this stream's dtype and layout."""
        return _dense(self.config, self.constrain, shape, names, **kwargs)

    def added(self, **kwargs) -> Dense:
        """A projection to what is added to the stream, in its dtype."""
        return self.dense((self.config.width,), ("width",), sums=self.config.sums, **kwargs)

    def modulated(self, x: Array, shift: Array, scale: Array) -> Array:
        """A modulated input of a projection, rounded once."""
        return modulate(x, shift, scale).astype(self.config.dtype)

    def project(self, x: Array, c: Array) -> tuple[tuple[Array, Array, Array], Array, Array]:
        """`q, k, v` of "b n d", the modulation chunks "b k d" and the normed input."""
        mod = self.modulation(c)
        normed = layer_norm(x)
        q, k, v = jnp.moveaxis(self.qkv(self.modulated(normed, mod[:, 0], mod[:, 1])), 2, 0)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return (q, k, v), mod, normed

    def second_attention(self, mod: Array, normed: Array) -> Array:
        """Self-attention of a dual block over the same normed input, gated."""
        q, k, v = jnp.moveaxis(self.qkv2(self.modulated(normed, mod[:, 6], mod[:, 7])), 2, 0)
        if self.config.qk_norm:
            q, k = self.q_norm2(q), self.k_norm2(k)
        return mod[:, 8][:, None] * self.proj2(attend_whole(self.attend, self.constrain, q, k, v))

    def mix(self, x: Array, attended: Array, mod: Array, normed: Array) -> Array:
        """Adds the gated attention, second attention and MLP to the stream."""
        x = x + mod[:, 2][:, None] * self.proj(attended)
        if self.dual:
            x = x + self.second_attention(mod, normed)
        hidden = jax.nn.gelu(self.fc1(self.modulated(layer_norm(x), mod[:, 3], mod[:, 4])))
        x = x + mod[:, 5][:, None] * self.fc2(hidden)
        return self.constrain(x, "batch", "tokens", "width")


def attend_whole(attend: Attend, constrain: Constrain, q: Array, k: Array, v: Array) -> Array:
    """Attention between layouts: whole sequences of few heads inside, split tokens outside."""
    q, k, v = (constrain(x, "batch", None, "attended_heads", None) for x in (q, k, v))
    attended = checkpoint_name(attend(q, k, v), "attended")
    return constrain(attended, "batch", "tokens", "heads", None)


# Image and text "b n d"; and, if blocks are tapped, image tokens "t b n d" after those.
Carry: TypeAlias = tuple[tuple[Array, Array], Array | None]


class JointBlock(nn.Module):
    """Image and text keep their own weights and attend jointly, text first."""

    config: MMDiTConfig
    constrain: Constrain
    attend: Attend
    dual: bool = False
    last: bool = False

    def __call__(
        self,
        carry: Carry,
        c: Array,
        skip: Array | None = None,
        slot: Array | None = None,
    ) -> tuple[Carry, None]:
        """Both streams after the block, unchanged if `skip`; the image is written to its slot."""
        streams, tapped = carry
        if skip is None or self.is_initializing():
            streams = self.joined(streams, c)
        else:  # a block that is skipped is not computed
            unchanged = lambda _, streams, c: streams
            streams = nn.cond(skip, unchanged, type(self).joined, self, streams, c)
        if tapped is not None:
            image = streams[0].astype(tapped.dtype)
            tapped = jax.lax.dynamic_update_index_in_dim(tapped, image, slot, 0)
        return (streams, tapped), None

    @nn.compact
    def joined(self, streams: tuple[Array, Array], c: Array) -> tuple[Array, Array]:
        """Both streams after the block."""
        image, text = streams
        image_stream = Stream(
            self.config, self.constrain, self.attend, dual=self.dual, name="image"
        )
        text_stream = Stream(
            self.config, self.constrain, self.attend, only_context=self.last, name="text"
        )
        image_qkv, image_mod, image_normed = image_stream.project(image, c)
        text_qkv, text_mod, text_normed = text_stream.project(text, c)
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip(text_qkv, image_qkv, strict=True))
        attended = attend_whole(self.attend, self.constrain, q, k, v)
        split = text.shape[1]
        image = image_stream.mix(image, attended[:, split:], image_mod, image_normed)
        if not self.last:
            text = text_stream.mix(text, attended[:, :split], text_mod, text_normed)
        return image, text


class MMDiT(nn.Module):
    """Velocity of noisy latents. Equal blocks are scanned: groups `dual`, `joint`, `last`."""

    config: MMDiTConfig
    constrain: Constrain = unconstrained
    attend: Attend = layers.attend

    @nn.compact
    def __call__(
        self,
        x: Array,
        sigma: Array,
        cond: Cond,
        skip: Array | None = None,
        *,
        taps: tuple[int, ...] = (),
    ) -> tuple[Array, Array | None]:
        """Returns the velocity "b h w c" and the image tokens "t b n d" after the blocks `taps`.

        `taps` rise; without them there are no tokens. `skip`, bool "depth", bypasses blocks; the
        last one always runs.
        """
        config = self.config
        image = self.embed_patches(x.astype(config.dtype))
        c = self.embed_condition(1000.0 * sigma, cond.pooled.astype(config.dtype))
        # Modulations have a third of the weights, and see one row of a sample: it goes to where
        # their kernels are stored, and their sums come back.
        c = self.constrain(jax.nn.silu(c).astype(config.dtype), "rows", "stored")
        text = self.dense((config.width,), ("width",), "context_embed", sums=config.sums)(
            cond.text.astype(config.dtype)
        )
        # A block writes to the slot of the next tap, whose own block comes last; past all taps
        # there is a slot that nobody reads.
        slots = np.searchsorted(taps, np.arange(config.depth)) if taps else None
        carry = (image, text), self.room(image, slots)
        for name, first, length in self.groups():
            own = slice(first, first + length)
            skipped, slot = (None if of is None else of[own] for of in (skip, slots))
            carry, _ = self.group(name, length)(carry, c, skipped, slot)
        last = JointBlock(config, self.constrain, self.attend, last=True, name="last")
        slot = None if slots is None else slots[-1]
        ((image, _), tapped), _ = last(carry, c, slot=slot)
        tapped = None if tapped is None else tapped[: len(taps)]
        return self.unpatchify(self.final(image, c), x.shape), tapped

    def room(self, image: Array, slots: np.ndarray | None) -> Array | None:
        """Where blocks write tokens "b n d" of theirs, "t b n d"."""
        if slots is None:
            return None
        empty = jnp.zeros((max(slots) + 1, *image.shape), self.config.dtype)
        return self.constrain(empty, None, "batch", "tokens", "width")

    def groups(self) -> list[tuple[str, int, int]]:
        """The scanned runs of equal blocks before the last one: (name, first block, length)."""
        dual = self.config.dual
        runs = [("dual", 0, dual), ("joint", dual, self.config.depth - 1 - dual)]
        return [run for run in runs if run[2]]

    def group(self, name: str, length: int) -> Callable:
        """`length` equal blocks as one scan; their parameters gain a leading depth dim."""
        policy = REMAT[self.config.remat]
        block = JointBlock
        if policy:  # what is tapped is no input that the backward pass would keep
            block = nn.remat(block, prevent_cse=False, policy=policy, methods=["joined"])
        in_axes = (nn.broadcast, 0, 0)
        scanned = layers.scanned(block, length, in_axes=in_axes, unroll=self.config.unroll)
        return scanned(self.config, self.constrain, self.attend, dual=name == "dual", name=name)

    def dense(self, shape: tuple[int, ...], names: tuple, name: str, **kwargs) -> Dense:
        """A named projection in the model's dtype and layout."""
        return _dense(self.config, self.constrain, shape, names, name=name, **kwargs)

    def embed_patches(self, x: Array) -> Array:
        """Latents "b h w c" to tokens "b n d" with the centre of the position table added."""
        config = self.config
        batch, height, width, _ = x.shape
        rows, columns = height // config.patch, width // config.patch
        if (
            height % config.patch
            or width % config.patch
            or max(rows, columns) > config.position_size
        ):
            raise ValueError(
                f"latents of {height}x{width} do not fit: sides must be multiples of "
                f"{config.patch} and at most {config.patch * config.position_size}"
            )
        patches = x.reshape(batch, rows, config.patch, columns, config.patch, config.channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        tokens = self.dense((config.width,), ("width",), "patch_embed", sums=config.sums)(patches)
        side = config.position_size
        table = held(
            self,
            "position",
            lambda *_: layers.position_table(side, config.width),
            (side, side, config.width),
        )
        crop = as_floats(layers.centre_crop(table, rows, columns)).reshape(1, -1, config.width)
        return self.constrain(tokens + crop.astype(config.sums), "batch", "tokens", "width")

    def embed_condition(self, timestep: Array, pooled: Array) -> Array:
        """The vector "b d" that modulates every block."""
        width = self.config.width

        def mlp(name: str, x: Array) -> Array:
            hidden = jax.nn.silu(self.dense((width,), ("width",), f"{name}_1")(x))
            return self.dense((width,), ("width",), f"{name}_2", sums=self.config.sums)(hidden)

        embedding = layers.timestep_embedding(timestep).astype(self.config.dtype)
        return mlp("time", embedding) + mlp("pooled", pooled)

    def final(self, image: Array, c: Array) -> Array:
        """Tokens "b n d" to patches "b n (patch patch c)"."""
        config = self.config
        mod = self.dense(
            (2, config.width),
            (None, "width"),
            "final_modulation",
            inputs=("stored",),
            sums=config.sums,
            kernel_init=layers.zeros,
        )(c)
        patch = config.patch * config.patch * config.channels
        image = modulate(layer_norm(image), mod[:, 0], mod[:, 1]).astype(config.dtype)
        final = self.dense((patch,), (None,), "final", kernel_init=layers.zeros, sums=config.sums)
        return final(image)

    def unpatchify(self, patches: Array, shape: tuple[int, ...]) -> Array:
        """Patches "b n (patch patch c)" back to latents "b h w c" in fp32."""
        batch, height, width, channels = shape
        patch = self.config.patch
        grid = patches.reshape(
            batch, height // patch, width // patch, patch, patch, channels
        ).transpose(0, 1, 3, 2, 4, 5)
        return grid.reshape(shape).astype(jnp.float32)


def velocity_of(
    model: MMDiT, *, skip: tuple[int, ...] = ()
) -> Callable[[Params, Array, Array, Cond], Array]:
    """`velocity(params, x, sigma, cond)`: the one seam between models and the rest.

    The blocks in `skip` are bypassed; InputError for one that the model cannot do without.
    """
    depth = model.config.depth
    if not all(0 <= block < depth - 1 for block in skip):
        raise InputError(
            f"blocks {skip} cannot all be skipped in a model of {depth} blocks, whose last one "
            f"always runs: choose from 0 to {depth - 2}"
        )
    flags = jnp.isin(jnp.arange(depth), jnp.array(skip)) if skip else None

    def velocity(params: Params, x: Array, sigma: Array, cond: Cond) -> Array:
        return layers.apply(model, params, x, sigma, cond, flags)[0]

    return velocity


def moments_of(model: MMDiT) -> Callable[[Params, Array, Array, Cond], tuple[Array, Params]]:
    """`moments(params, x, sigma, cond) -> (velocity, second moments "in in" of each kernel)`.

    The moments form a tree like the parameters', of those kernels alone; moments of scanned
    groups have their leading depth dim.
    """

    def moments(params: Params, x: Array, sigma: Array, cond: Cond) -> tuple[Array, Params]:
        found = layers.apply(model, params, x, sigma, cond, mutable=layers.MOMENTS)
        (velocity, _), collections = found
        return velocity, collections[layers.MOMENTS]

    return moments


def features_of(
    model: MMDiT, taps: tuple[int, ...]
) -> Callable[[Params, Array, Array, Cond], tuple[Array, Array]]:
    """`features(params, x, sigma, cond) -> (velocity, image tokens "taps b n d")`.

    InputError for a tap beyond the model's blocks.
    """
    if not all(0 <= tap < model.config.depth for tap in taps):
        raise InputError(
            f"heads.taps {taps} go beyond the {model.config.depth} blocks of the model: "
            f"choose from 0 to {model.config.depth - 1}"
        )

    rising = tuple(sorted(set(taps)))

    def features(params: Params, x: Array, sigma: Array, cond: Cond) -> tuple[Array, Array]:
        velocity, tokens = layers.apply(model, params, x, sigma, cond, taps=rising)
        return velocity, tokens if taps == rising else tokens[np.searchsorted(rising, taps)]

    return features
