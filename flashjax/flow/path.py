"""The straight path between data and noise, and what a velocity on it says about its ends.

    x = (1 - sigma) x0 + sigma noise,   velocity = dx/dsigma = noise - x0

Source: Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206, section 2.
Letters: b batch; every `sigma` is "b" in [0, 1], 0 = data, 1 = noise.
"""

import jax.numpy as jnp
from jax import Array


def along(sigma: Array, x: Array) -> Array:
    """`sigma` "b" shaped to broadcast over `x` "b ..."."""
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))


def add_noise(x0: Array, noise: Array, sigma: Array) -> Array:
    """The point of the path at `sigma`."""
    sigma = along(sigma, x0)
    return (1.0 - sigma) * x0 + sigma * noise


def to_x0(velocity: Array, x: Array, sigma: Array) -> Array:
    """The clean end of the line through `x` along `velocity`."""
    return x - along(sigma, x) * velocity


def to_noise(velocity: Array, x: Array, sigma: Array) -> Array:
    """The noisy end of the line through `x` along `velocity`."""
    return x + (1.0 - along(sigma, x)) * velocity


def to_velocity(x0: Array, x: Array, sigma: Array) -> Array:
    """The velocity of the line through `x` whose clean end is `x0`, for `sigma` > 0.

    With a sample of the student's and a state that was diffused from its line it is what TDM's fake
    score learns (arXiv:2503.06674); see `diffused_velocity` for what would have the path's mean.
    """
    return (x - x0) / along(sigma, x)


def matching_noise(student_noise: Array, fresh: Array, eta: Array | float) -> Array:
    """The noise of the matching point: `cos(eta pi/2) student_noise + sin(eta pi/2) fresh`.

    eta = 0 shares the student's own noise, so that the point lies on its trajectory (timestep
    sharing, SD3.5-Flash, arXiv:2509.21318); eta = 1 is the standard re-noising of DMD
    (arXiv:2311.18828). The dial between them keeps unit variance.
    """
    angle = 0.5 * jnp.pi * jnp.asarray(eta)
    angle = along(angle, student_noise) if angle.ndim else angle
    return jnp.cos(angle) * student_noise + jnp.sin(angle) * fresh


def diffuse(x: Array, low: Array, high: Array, noise: Array) -> Array:
    """A state `x` at the level `low` "b" with fresh noise, up to the level `high` >= `low`.

    From a state that is distributed as the path is at `low`, one that is as the path is at `high`.
    Source: Phased DMD, arXiv:2510.27684.
    """
    kept, added = _diffusion(x, low, high)
    return kept * x + added * noise


def diffused_velocity(x: Array, low: Array, high: Array, noise: Array) -> Array:
    """What a velocity at `diffuse(x, low, high, noise)` learns: its mean there is the path's own.

    `noise - x`, which it is for `low` = 0, would be biased.
    """
    _, added = _diffusion(x, low, high)
    low, high = along(low, x), along(high, x)
    slope = high + (1.0 - high) * jnp.square(low / (1.0 - low))
    return slope / added * noise - x / (1.0 - low)


def _diffusion(x: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """How much of a state is kept from `low` to `high`, and how much noise is added."""
    kept = (1.0 - high) / (1.0 - low)
    added = jnp.sqrt(jnp.square(high) - jnp.square(kept * low))
    return along(kept, x), along(added, x)
