"""The reader: a small convolutional net that finds the digits of a scene and names them.

It looks at 64x64 pictures on an 8x8 grid of cells, each 8 pixels wide; about 14 M multiply-adds.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

CELLS = 8
FEATURES = 128
_HEADS = {"objectness": 1, "value": 10, "colour": 6, "offset": 2}


@flax.struct.dataclass
class ReaderOutput:
    """What the net says of each cell, and of the whole picture.

    `objectness` "b 8 8" (logit that a digit is centred here), `value` "b 8 8 10" and `colour`
    "b 8 8 6" (logits), `offset` "b 8 8 2" (digit centre minus cell centre, x then y, in cells),
    `background` "b 4" (logits), `features` "b 128" (penultimate activations, mean over cells).
    """

    objectness: jax.Array
    value: jax.Array
    colour: jax.Array
    offset: jax.Array
    background: jax.Array
    features: jax.Array


class Block(nn.Module):
    """3x3 convolution, layer norm over channels, GELU; residual where the shape is kept."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Conv(self.width, (3, 3), strides=self.stride, use_bias=False, name="conv")(x)
        y = nn.gelu(nn.LayerNorm(name="norm")(y))
        return x + y if x.shape == y.shape else y


class Reader(nn.Module):
    """Pictures "b 64 64 3" in [-1, 1] -> ReaderOutput."""

    @nn.compact
    def __call__(self, images: jax.Array) -> ReaderOutput:
        x = _space_to_depth(images)
        x = Block(32, stride=2, name="stem")(x)
        x = Block(48, name="strokes")(x)
        x = Block(80, stride=2, name="cells")(x)
        x = Block(80, name="near")(x)
        x = Block(80, name="far")(x)
        x = nn.gelu(nn.Dense(FEATURES, name="penultimate")(x))
        pooled = x.mean((1, 2))
        heads = {name: nn.Dense(width, name=name)(x) for name, width in _HEADS.items()}
        heads["objectness"] = heads["objectness"][..., 0]
        background = nn.Dense(4, name="background")(pooled)
        return ReaderOutput(**heads, background=background, features=pooled)


def _space_to_depth(images: jax.Array) -> jax.Array:
    """Fold 2x2 pixels into channels: "b 64 64 3" -> "b 32 32 12"."""
    b, h, w, c = images.shape
    folded = images.reshape(b, h // 2, 2, w // 2, 2, c)
    return jnp.transpose(folded, (0, 1, 3, 2, 4, 5)).reshape(b, h // 2, w // 2, 4 * c)
