"""Drawing on a mesh, by all processes together; what is drawn is kept, and not drawn again."""

import dataclasses
import functools
import re
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flashjax import trees
from flashjax.convert.pipeline import Pipeline
from flashjax.convert.writing import replacing
from flashjax.data.pipeline import to_mesh
from flashjax.evaluate.room import fitting, picture_bytes
from flashjax.evaluate.sample import (
    BROKEN,
    Drawn,
    Sampler,
    draw_noise,
    frugal,
    one_ahead,
    sampling,
)
from flashjax.models.attention import attend_on
from flashjax.models.mmdit import MMDiT
from flashjax.models.parameters import as_bits
from flashjax.parallel.hosts import is_first
from flashjax.parallel.layout import STATE
from flashjax.parallel.sharding import Constraint
from flashjax.parallel.watch import alive
from flashjax.stages.compute import DTYPES, Compute, compute_of
from flashjax.stages.setting import at_its_size, computed_text, lay_out, make_encoder
from flashjax.types import Cond, InputError, Params, Tokens

COMPUTE = Compute()
CHUNK = r"\d+-\d+\.npz"  # what files of pictures are called
# What numpy raises for files that are cut short or changed.
_BROKEN = (
    ValueError, KeyError, TypeError, EOFError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
# From a transformer's parameters, the tokens of some prompts, and what their noise is made of.
Draw = Callable[[Params, Tokens, np.ndarray], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Studio:
    """A model on a mesh, ready to draw latents of `size` "h w".

    `pipeline` has the text encoders and the autoencoder there already, and the sizes of `model`,
    which is the transformer as it is computed. `empty` are the tokens that guidance goes away from.
    """

    mesh: Mesh
    pipeline: Pipeline
    empty: Tokens
    model: MMDiT
    size: tuple[int, int]
    compute: Compute = COMPUTE

    @property
    def rows(self) -> int:
        """The pictures that are drawn together are a multiple of this."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the latents, "h w c"."""
        return *self.size, self.pipeline.transformer_config.channels

    def chunk(self, most: int, sampler: Sampler, tokens: Tokens) -> int:
        """How many pictures of such tokens to draw at a time: at most `most` where they fit."""
        of_one = picture_bytes(
            self.pipeline,
            tokens,
            self.size,
            guided=sampler.guidance_scale != 1.0,
            attention=self.compute.attention,
        )
        return fitting(most, self.rows, of_one)

    @functools.cached_property
    def encode(self) -> Callable[[Params, Tokens], Cond]:
        """The text encoders, compiled once for all programs."""
        encode = make_encoder(self.pipeline.text_config, self.mesh)
        return lambda text, tokens: encode(as_bits(text), tokens)

    @functools.cached_property
    def uncond(self) -> Cond:
        """What the text encoders make of `empty`, once for all that is drawn."""
        return self.encode(self.pipeline.text, self.empty)

    def place(self, transformer: Params, *, role: str = "student") -> Params:
        """A transformer's parameters where they are computed with."""
        dtype = self.compute.dtype
        if role == "teacher":
            role, dtype = self.compute.teacher_role, self.compute.teacher_dtype
        return lay_out(trees.cast(transformer, DTYPES[dtype]), self.mesh, role)

    def program(self, sampler: Sampler, noise: Callable[[Array], Array] = lambda x: x) -> Draw:
        """`draw(transformer, tokens, rows) -> (pictures uint8 "n H W 3", finite "n")`.

        Both are whole on every device. `noise` makes the initial noise "n h w c" of `rows`.
        """
        whole = NamedSharding(self.mesh, PartitionSpec())
        sizes = dataclasses.replace(self.pipeline, transformer={}, vae={}, text={})
        sample = sampling(sizes, sampler, model=self.model)
        fixed = {"vae": self.pipeline.vae, "text": {}}

        def draw(params: Params, cond: Cond, uncond: Cond, rows: Array) -> tuple[Array, Array]:
            pictures = sample(params, cond, uncond, noise(rows))
            levels = (jnp.clip(pictures, -1.0, 1.0) + 1.0) * 127.5 + 0.5
            return levels.astype(jnp.uint8), jnp.isfinite(pictures).all((1, 2, 3))

        options = frugal(self.pipeline.transformer_config)
        compiled = jax.jit(draw, out_shardings=whole, compiler_options=options)

        def run(transformer: Params, tokens: Tokens, rows: np.ndarray) -> tuple[Array, Array]:
            params = fixed | {"transformer": as_bits(transformer)}
            there = to_mesh((tokens, rows), self.mesh)
            cond = self.encode(self.pipeline.text, there[0])
            uncond = cond if sampler.guidance_scale == 1.0 else self.uncond  # or is not read
            return compiled(params, cond, uncond, there[1])

        return run


def make_studio(config: ConfigDict, mesh: Mesh, pipeline: Pipeline, empty: Tokens) -> Studio:
    """Where a run draws: its model, read onto the mesh, at the size that the run has learnt."""
    compute, whole = compute_of(config), NamedSharding(mesh, PartitionSpec())
    text = trees.cast(pipeline.text, DTYPES[compute.text_dtype])
    sizes = dataclasses.replace(pipeline.transformer_config, dtype=DTYPES[compute.dtype])
    attend = attend_on(mesh, STATE, compute.attention)
    placed = dataclasses.replace(
        at_its_size(config, pipeline),
        transformer={},
        transformer_config=sizes,
        text=lay_out(text, mesh, "text"),
        text_config=computed_text(config, pipeline.text_config),
        vae=jax.device_put(pipeline.vae, whole),
    )
    return Studio(
        mesh=mesh,
        pipeline=placed,
        empty=jax.device_put(empty, whole),
        model=MMDiT(sizes, constrain=Constraint(mesh, STATE), attend=attend),
        size=(placed.sample_size, placed.sample_size),
        compute=compute,
    )


def fetched(drawn: tuple[Array, Array]) -> np.ndarray:
    """Drawn pictures on the host, of every process. InputError where a number was none."""
    pictures, finite = (np.asarray(array.addressable_data(0)) for array in drawn)
    if not finite.all():
        raise InputError(BROKEN)
    return pictures


def draw_all(
    studio: Studio,
    draw: Callable[[Tokens, np.ndarray], tuple[Array, Array]],
    tokens: Tokens,
    place: Path,
    *,
    seed: int,
    chunk: int,
) -> Drawn | None:
    """The pictures of all tokens from the noise of `seed`, each chunk kept in a file of `place`.

    Whoever draws as many from the same seed begins with the same noise. The first chunk is drawn
    twice, to compile. The time counts everything from token ids to pictures on the host; that of
    the median chunk is kept, so that a hiccup of the machine is no speed. The first process has
    the pictures, others None.
    """
    count = len(tokens.clip_l)
    noise = draw_noise(seed, count, studio.shape)
    rows = filled(count, chunk, studio.rows)
    paths = [place / f"{row[0]}-{len(row)}.npz" for row in rows]  # of another mesh others
    left = [number for number, path in enumerate(paths) if not first_sees(path.is_file())]

    def start(number: int) -> tuple[Array, Array]:
        row = rows[number]
        return draw(jax.tree.map(lambda column: column[row], tokens), noise[row])

    if left:
        alive(f"compiles for {place.name}")
        fetched(start(left[0]))
        ended = time.perf_counter()
        for number, drawn in zip(left, one_ahead(start, left), strict=True):
            pictures = fetched(drawn)
            seconds, ended = time.perf_counter() - ended, time.perf_counter()
            alive(f"drew chunk {number + 1} of {len(rows)} of {place.name}")
            if is_first():
                _save(paths[number], pictures, seconds)
    if not is_first():
        return None
    chunks = [_kept(path, len(row)) for path, row in zip(paths, rows, strict=True)]
    images = np.concatenate([pictures for pictures, _ in chunks])[:count]
    seconds = float(np.median([seconds for _, seconds in chunks])) / len(rows[0])
    return Drawn(images=images, seconds_per_image=seconds)


def forget(place: Path) -> None:
    """Removes the chunks that `draw_all` kept, and the folders that are empty then.

    What else lies among them is not ours.
    """
    for path in place.glob("*.npz"):
        if re.fullmatch(CHUNK, path.name):
            path.unlink()
    for folder in (place, place.parent):
        if not any(folder.iterdir()):
            folder.rmdir()


def _kept(path: Path, number: int) -> tuple[np.ndarray, float]:
    """The pictures of a chunk and what they took. InputError for a file that is broken."""
    try:
        with np.load(path, allow_pickle=False) as chunk:
            pictures, seconds = chunk["pictures"], float(chunk["seconds"])
    except _BROKEN as error:
        raise InputError(f"{path} is broken, delete it: {error}") from error
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or len(pictures) != number:
        raise InputError(f"{path} holds {pictures.dtype} {pictures.shape}, delete it")
    return pictures, seconds


def _save(path: Path, pictures: np.ndarray, seconds: float) -> None:
    """Keeps pictures and what they took, whole or not at all."""
    with replacing(path) as new:
        np.savez(new, pictures=pictures, seconds=seconds)


def first_sees(found: bool) -> bool:
    """What the first process sees of a disk: all must go the same way."""
    if jax.process_count() == 1:
        return found
    return bool(multihost_utils.broadcast_one_to_all(np.int32(found)))


def filled(count: int, chunk: int, rows: int) -> list[np.ndarray]:
    """The numbers of `count` pictures, `chunk` together or the next more that split over `rows`.

    The last are filled up with others, to be dropped.
    """
    chunk = -(-min(chunk, count) // rows) * rows
    return [np.arange(start, start + chunk) % count for start in range(0, count, chunk)]
