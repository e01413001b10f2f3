"""Prompts to pictures with any weights: text encoders, solver, decoder, in one jitted program.

Letters: b batch, h w c latents, H W pixels.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from flashjax import trees
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.transformer import abstract_transformer
from flashjax.flow.experts import by_expert
from flashjax.flow.guidance import Guided, SkipLayers, guided, skip_guided
from flashjax.flow.solvers import dpmpp_2m, euler
from flashjax.models import vae
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.models.parameters import as_bits
from flashjax.models.text import TextConfig, encode_text
from flashjax.models.tiling import tiled_decode
from flashjax.parallel.mesh import make_mesh
from flashjax.types import Cond, InputError, Params, Tokens

R = TypeVar("R")
T = TypeVar("T")
Prompts = Tokens | Cond  # of prompts, or what the text encoders have made of them
Sample = Callable[[Params, Prompts, Prompts, Array], Array]

SOLVERS = {"euler": euler, "dpmpp_2m": dpmpp_2m}
SEEDS = 2**63
BROKEN = "the model draws NaN: its weights are broken, or try float32 (compute.dtype, --dtype)"
MANY = 2**28  # weights of a model that is large for one host
LARGEST_TILE = 128  # latent pixels: pictures up to 1024 are decoded in one go


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A grid of noise levels "steps + 1", how it is followed, and what guides it.

    A guidance scale of 1 means one pass per step. With `experts`, decreasing noise levels, the
    transformer's parameters are several sets, each for its own levels (flow/experts.py).
    """

    sigmas: tuple[float, ...]
    guidance_scale: float = 1.0
    solver: str = "euler"
    skip: SkipLayers | None = None
    experts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InputError(f"solver {self.solver!r} is unknown: choose {' or '.join(SOLVERS)}")
        if self.skip is not None and self.guidance_scale == 1.0:
            raise InputError("skip-layer guidance adds to guidance: give a guidance_scale above 1")

    @property
    def steps(self) -> int:
        """Of the solver."""
        return len(self.sigmas) - 1

    @property
    def passes(self) -> int:
        """Passes of the transformer for one picture, without those of skip-layer guidance."""
        return self.steps * (1 if self.guidance_scale == 1.0 else 2)


def make_sample(
    pipeline: Pipeline,
    sampler: Sampler,
    *,
    model: MMDiT | None = None,
    tile: int = LARGEST_TILE,
) -> Sample:
    """The compiled program of `sampling`."""
    sample = sampling(pipeline, sampler, model=model, tile=tile)
    return jax.jit(sample, compiler_options=frugal(pipeline.transformer_config))


def frugal(sizes: MMDiTConfig) -> dict[str, str] | None:
    """Options of a CPU's compiler that leave narrow weights as they are until they are needed.

    Left alone it expands those of a whole block at a time, and keeps what lies outside the blocks
    expanded from step to step; to expand that anew takes a small model a tenth of its time.
    """
    if jax.default_backend() != "cpu":
        return None
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if trees.count(abstract_transformer(sizes)) > MANY:
        options["xla_disable_hlo_passes"] = "while-loop-invariant-code-motion"
    return options


def sampling(
    pipeline: Pipeline,
    sampler: Sampler,
    *,
    model: MMDiT | None = None,
    tile: int = LARGEST_TILE,
) -> Sample:
    """Builds `sample(params, tokens, empty, noise) -> images "b H W 3"` in [-1, 1].

    Latents with a side of more than `tile` are decoded in tiles. `model` is the transformer where
    it is computed on a mesh of its own.

    `params` is {"transformer", "vae", "text"}; `noise` is "b h w c"; `empty` is the one caption
    that guidance goes away from, read only with guidance. What is encoded already is taken as it
    is.
    """
    solved = solving(pipeline, sampler, model=model)

    def sample(params: Params, tokens: Prompts, empty: Prompts, noise: Array) -> Array:
        latents = solved(params, tokens, empty, noise)
        decoder = trees.cast(params["vae"], jnp.float32)  # the one network of a single dtype
        if max(latents.shape[1:3]) > tile:
            return tiled_decode(pipeline.vae_config, decoder, latents, tile=tile)
        return vae.decode(pipeline.vae_config, decoder, latents)

    return sample


def solving(pipeline: Pipeline, sampler: Sampler, *, model: MMDiT | None = None) -> Sample:
    """Builds what `sampling` does before it decodes: the same arguments -> latents "b h w c"."""
    model = model or MMDiT(pipeline.transformer_config)
    velocity = velocity_of(model)
    if sampler.experts:
        velocity = by_expert(velocity, sampler.experts)
    sigmas = jnp.asarray(sampler.sigmas)
    solve = SOLVERS[sampler.solver]

    def guide() -> Guided:
        scale, skip = sampler.guidance_scale, sampler.skip
        if skip is None:
            return guided(velocity, scale)
        without = velocity_of(model, skip=skip.blocks)
        return skip_guided(velocity, without, scale, skip=skip, sigmas=np.asarray(sampler.sigmas))

    def latents(params: Params, tokens: Prompts, empty: Prompts, noise: Array) -> Array:
        transformer = params["transformer"]
        cond = encoded(pipeline.text_config, params["text"], tokens)
        if sampler.guidance_scale == 1.0:
            field = lambda x, sigma: velocity(transformer, x, sigma, cond)
        else:
            one = encoded(pipeline.text_config, params["text"], empty)
            uncond = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), one, cond)
            teach = guide()
            field = lambda x, sigma: teach(transformer, x, sigma, cond, uncond)
        return solve(field, noise, sigmas)

    return latents


@functools.partial(jax.jit, static_argnums=0)
def encoded(config: TextConfig, params: Params, prompts: Prompts) -> Cond:
    """What the text encoders make of prompts, by a program of its own or within another."""
    return prompts if isinstance(prompts, Cond) else encode_text(config, params, prompts)


def draw_noise(seed: int, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Initial noise "count h w c": the same for the same seed, whatever the sampler.

    Row i does not depend on how many rows there are. InputError for a seed beyond 63 bits.
    """
    return np.asarray(jax.random.normal(noise_key(seed), (count, *shape)))


def noise_key(seed: int) -> Array:
    """The key of a seed of 0 .. 2^63 - 1; `jax.random.key` takes those of 32 bits apart only."""
    check_seed(seed)
    words = jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def check_seed(seed: int) -> None:
    """InputError for a seed that has no noise of its own."""
    if not 0 <= seed < SEEDS:
        raise InputError(f"seed {seed}: give a number from 0 to {SEEDS - 1}")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Pictures uint8 "n H W 3" and what one costs: of the median chunk, without compilation."""

    images: np.ndarray
    seconds_per_image: float


def draw(
    sample: Sample, params: Params, tokens: Tokens, empty: Prompts, noise: np.ndarray, *, chunk: int
) -> Drawn:
    """Pictures of all prompts, `chunk` at a time; the first chunk is drawn twice, to compile.

    The time counts everything from token ids to decoded pictures on the host; that of the median
    chunk is kept, so that a hiccup of the machine during a short row is no speed.
    """
    part, rows = _parts(sample, params, tokens, empty, noise.__getitem__, len(noise), chunk)
    jax.block_until_ready(part(rows[0]))
    fetched: list[np.ndarray] = []
    ended = [time.perf_counter()]
    for pictures in one_ahead(part, rows):
        fetched.append(np.asarray(pictures))
        ended.append(time.perf_counter())
    seconds = float(np.median(np.diff(ended))) / len(rows[0])
    images = to_bytes(np.concatenate(fetched)[: len(noise)])
    return Drawn(images=images, seconds_per_image=seconds)


def draw_seeds(
    sample: Sample,
    params: Params,
    tokens: Tokens,
    empty: Prompts,
    *,
    seed: int,
    shape: tuple[int, ...],
    chunk: int,
) -> Iterator[np.ndarray]:
    """The pictures uint8 "H W 3" of all prompts, as they are done; noise is "h w c" of `shape`.

    That of picture i is the first one of `seed` + i, whatever is drawn with it.
    """
    count = len(tokens.clip_l)
    check_seed(seed + count - 1)

    def noise(row: np.ndarray) -> np.ndarray:
        return np.concatenate([draw_noise(seed + int(index), 1, shape) for index in row])

    part, rows = _parts(sample, params, tokens, empty, noise, count, min(chunk, count))
    for row, pictures in zip(rows, one_ahead(part, rows), strict=True):
        yield from to_bytes(np.asarray(pictures)[: min(count - row[0], len(row))])


def to_bytes(pictures: np.ndarray) -> np.ndarray:
    """Pictures of [-1, 1] as uint8. InputError where a number is none: no weights of a model."""
    if not np.isfinite(pictures).all():
        raise InputError(BROKEN)
    return ((pictures + 1.0) * 127.5 + 0.5).astype(np.uint8)


def _parts(
    sample: Sample,
    params: Params,
    tokens: Tokens,
    empty: Prompts,
    noise: Callable[[np.ndarray], np.ndarray],
    count: int,
    chunk: int,
) -> tuple[Callable[[np.ndarray], Array], list[np.ndarray]]:
    """What draws some rows of the prompts, and rows of equal number that are all of them.

    Each device draws its share of a chunk; one that they cannot share evenly is made larger.
    """
    mesh = make_mesh({"data": -1})
    params, empty = jax.device_put((params, empty), NamedSharding(mesh, PartitionSpec()))
    params = params | {name: as_bits(params[name]) for name in ("transformer", "text")}
    chunk = -(-chunk // mesh.size) * mesh.size

    def part(row: np.ndarray) -> Array:
        chosen = jax.tree.map(lambda array: array[row], tokens), noise(row)
        tokens_part, noise_part = jax.device_put(chosen, NamedSharding(mesh, PartitionSpec("data")))
        return sample(params, tokens_part, empty, noise_part)

    return part, [np.arange(start, start + chunk) % count for start in range(0, count, chunk)]


def one_ahead(part: Callable[[R], T], rows: Sequence[R]) -> Iterator[T]:
    """What is made of each row; while one is fetched the next is made: no device waits."""
    ahead = part(rows[0])
    for row in rows[1:]:
        done, ahead = ahead, part(row)
        yield done
    yield ahead
