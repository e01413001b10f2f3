"""The few types that every floor shares: batches, conditioning, and the error a user can mend.

Letters: b batch, h w c latent grid and channels, m text tokens, d text width, p pooled width.
"""

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import flax.struct
import jax
import numpy as np

HostOrDevice: TypeAlias = jax.Array | np.ndarray
Params: TypeAlias = Any  # a nested dict of arrays
Metrics: TypeAlias = dict[str, jax.Array]  # "network/quantity" -> float32 scalar
Constrain: TypeAlias = Callable[..., jax.Array]


class InputError(ValueError):
    """Something the user can mend: one line that says what, where, and what to do (exit code 2)."""


def listed(names: Collection[str], *, most: int = 5, separator: str = ", ") -> str:
    """The first `most` of these and how many more there are: a message stays one line."""
    first = separator.join(list(names)[:most])
    return first if len(names) <= most else f"{first}{separator}and {len(names) - most} more"


@flax.struct.dataclass
class Tokens:
    """Token ids of one prompt batch for the three text encoders, int32 "b m" each."""

    clip_l: HostOrDevice
    clip_g: HostOrDevice
    t5: HostOrDevice


@flax.struct.dataclass
class Cond:
    """What the transformer is conditioned on: `text` is "b m d", `pooled` is "b p"."""

    text: jax.Array
    pooled: jax.Array


@flax.struct.dataclass
class Batch:
    """Clean latents "b h w c" in model space, and their captions: tokens, or encoded already."""

    latents: HostOrDevice
    tokens: Any  # Tokens, or Cond where they are encoded


def unconstrained(x: jax.Array, *names: str | None) -> jax.Array:
    """The identity `constrain`: models that run on one device use it."""
    del names
    return x
