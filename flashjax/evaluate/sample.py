"""Prompts to pictures with any weights: text encoders, solver, decoder, in one jitted program.

Letters: b batch, h w c latents, H W pixels.
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.convert.folder import Pipeline
from flashjax.flow.guidance import guided
from flashjax.flow.solvers import euler
from flashjax.models import vae
from flashjax.models.mmdit import MMDiT, velocity_of
from flashjax.models.text import encode_text
from flashjax.types import Params, Tokens

Sample = Callable[[Params, Tokens, Tokens, Array], Array]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A grid of noise levels "steps + 1" and a guidance scale; 1 means one pass per step."""

    sigmas: tuple[float, ...]
    guidance_scale: float = 1.0

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def passes(self) -> int:
        """Passes of the transformer for one picture."""
        return self.steps * (1 if self.guidance_scale == 1.0 else 2)


def make_sample(pipeline: Pipeline, sampler: Sampler) -> Sample:
    """Builds `sample(params, tokens, empty, noise) -> images "b H W 3"` in [-1, 1].

    `params` is {"transformer", "vae", "text"}; `noise` is "b h w c"; `empty` is the empty caption's
    tokens "1 m", read only with guidance.
    """
    velocity = velocity_of(MMDiT(pipeline.transformer_config))
    sigmas = jnp.asarray(sampler.sigmas)

    def sample(params: Params, tokens: Tokens, empty: Tokens, noise: Array) -> Array:
        transformer = params["transformer"]
        cond = encode_text(pipeline.text_config, params["text"], tokens)
        if sampler.guidance_scale == 1.0:
            field = lambda x, sigma: velocity(transformer, x, sigma, cond)
        else:
            one = encode_text(pipeline.text_config, params["text"], empty)
            uncond = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), one, cond)
            teach = guided(velocity, sampler.guidance_scale)
            field = lambda x, sigma: teach(transformer, x, sigma, cond, uncond)
        return vae.decode(pipeline.vae_config, params["vae"], euler(field, noise, sigmas))

    return jax.jit(sample)


def draw_noise(seed: int, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Initial noise "count h w c": the same for the same seed, whatever the sampler."""
    return np.asarray(jax.random.normal(jax.random.key(seed), (count, *shape)))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Pictures uint8 "n H W 3" and what they cost, without compilation."""

    images: np.ndarray
    seconds_per_image: float


def draw(
    sample: Sample, params: Params, tokens: Tokens, empty: Tokens, noise: np.ndarray, *, chunk: int
) -> Drawn:
    """Pictures of all prompts, `chunk` at a time; the first chunk is drawn twice, to compile.

    The time counts everything from token ids to decoded pictures on the host.
    """
    count = len(noise)
    rows = [np.arange(start, start + chunk) % count for start in range(0, count, chunk)]

    def part(row: np.ndarray) -> np.ndarray:
        chosen = jax.tree.map(lambda ids: ids[row], tokens)
        return np.asarray(sample(params, chosen, empty, noise[row]))

    part(rows[0])
    started = time.perf_counter()
    pictures = np.concatenate([part(row) for row in rows])
    seconds = (time.perf_counter() - started) / len(pictures)
    images = ((pictures[:count] + 1.0) * 127.5 + 0.5).astype(np.uint8)
    return Drawn(images=images, seconds_per_image=seconds)
