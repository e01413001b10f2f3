"""Whole tensors through a codec, in chunks of one compiled shape and bounded memory."""

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from flashjax.convert.tensors import energy
from flashjax.quantize.codecs.codec import Codec
from flashjax.types import InputError

CHUNK_COLUMNS = 256
CACHED_ROWS = 1024  # 1 MiB of float32: a core's cache holds it
QUEUED_ROWS = 8 * CACHED_ROWS  # an accelerator wants more than its dispatch costs


def encode_tensor(array: np.ndarray, codec: Codec, *, name: str) -> tuple[np.ndarray, float]:
    """Encode an array of any shape -> (uint8 bytes, signal-to-noise ratio in dB; inf when exact).

    Chunks are encoded side by side, on all cores or devices. Raises InputError when rows are no
    whole blocks, or when a weight is not finite in this type.
    """
    _check_blocks(array.shape, codec, name=name)
    codes = np.empty(codec.encoded_bytes(array.size), np.uint8)
    # Simulated devices of a CPU share the cores that threads use already.
    devices = jax.local_devices()[: 1 if jax.default_backend() == "cpu" else None]

    def encode(job: tuple[int, tuple[slice, np.ndarray]]) -> np.ndarray:
        number, (part, piece) = job
        with jax.default_device(devices[number % len(devices)]):
            weights = jnp.asarray(_padded(piece))
            encoded = codec.encode(weights)
            energies = _energies(weights, encoded, codec.decode)
            stored = slice(codec.encoded_bytes(part.start), codec.encoded_bytes(part.stop))
            codes[stored] = np.asarray(encoded).reshape(-1)[: stored.stop - stored.start]
        return np.asarray(energies, np.float64).sum(axis=1)

    with ThreadPoolExecutor(max(os.cpu_count() or 1, len(devices))) as pool:
        signal, noise = sum(pool.map(encode, enumerate(_chunks(array.reshape(-1)))), np.zeros(2))
    if not math.isfinite(noise):
        raise InputError(
            f"tensor {name}: holds a weight that is not finite in {codec.name}; "
            "mend the checkpoint, or write it with --format gguf-bf16"
        )
    return codes, decibels(float(signal), float(noise))


def encode_sharded(array: Array, codec: Codec) -> Array:
    """The bytes "out bytes" of a matrix "out in" on a mesh, laid out as it is: nothing moves.

    Every device encodes its own part, in chunks, whose rows are spread over the mesh; so it holds
    little beside weights and bytes. InputError where its part of a row is no whole blocks.
    """
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding):
        raise InputError(f"a weight {array.shape} lies on no mesh: lay it out on one first")
    mesh, spec, part = sharding.mesh, sharding.spec, sharding.shard_shape(array.shape)
    _check_blocks(part, codec, name="on a device")
    named = (axes if isinstance(axes, tuple) else (axes,) for axes in spec if axes)
    rows = PartitionSpec(tuple(itertools.chain(*named)))
    size, weights = math.prod(part), chunk_rows() * CHUNK_COLUMNS

    def cut(part: Array, start: int) -> Array:
        places = start + jnp.arange(weights)
        piece = part.reshape(-1).at[places].get(mode="fill", fill_value=0)
        return piece.reshape(-1, CHUNK_COLUMNS).astype(jnp.float32)

    def join(*pieces: Array) -> Array:
        flat = jnp.concatenate([piece.reshape(-1) for piece in pieces])
        return flat[: codec.encoded_bytes(size)].reshape(part[0], -1)

    def on_parts(function: Callable[..., Array], given: Any, made: PartitionSpec) -> Any:
        mapped = jax.shard_map(function, mesh=mesh, in_specs=given, out_specs=made, check_vma=False)
        return jax.jit(mapped)

    chunk = on_parts(cut, (spec, PartitionSpec()), rows)
    encoded = [codec.encode(chunk(array, start)) for start in range(0, size, weights)]
    return on_parts(join, rows, spec)(*encoded)


def chunk_rows() -> int:
    """Rows of CHUNK_COLUMNS weights that are encoded at a time on this machine."""
    return CACHED_ROWS if jax.default_backend() == "cpu" else QUEUED_ROWS


def decode_tensor(codes: np.ndarray, codec: Codec, *, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 bytes of `encode_tensor` -> float32 array of `shape`."""
    flat = np.empty(math.prod(shape), np.float32)
    for part, piece in _chunks(flat):
        encoded = codes[codec.encoded_bytes(part.start) : codec.encoded_bytes(part.stop)]
        padded = np.zeros(codec.encoded_bytes(chunk_rows() * CHUNK_COLUMNS), np.uint8)
        padded[: encoded.size] = encoded
        decoded = np.asarray(codec.decode(padded.reshape(chunk_rows(), -1)))
        piece[:] = decoded.reshape(-1)[: piece.size]
    return flat.reshape(shape)


def _check_blocks(shape: tuple[int, ...], codec: Codec, *, name: str) -> None:
    if math.prod(shape) % codec.block or (shape and shape[-1] % codec.block):
        raise InputError(
            f"tensor {name} {shape}: {codec.name} needs rows of a multiple of {codec.block}; "
            "choose another type for it"
        )


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies; inf when there is no noise."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def rms(array: np.ndarray) -> float:
    """The root of the mean square."""
    return math.sqrt(energy(array) / array.size)


def peak(array: np.ndarray) -> float:
    """The largest magnitude."""
    return float(max(array.max(), -array.min())) if array.size else 0.0


@functools.partial(jax.jit, static_argnums=2)
def _energies(weights: Array, encoded: Array, decode: Callable[[Array], Array]) -> Array:
    """The sums of squares "2 rows" of weights, and of what became wrong with them."""
    error = decode(encoded) - weights
    return jnp.stack([jnp.square(weights).sum(axis=1), jnp.square(error).sum(axis=1)])


def _chunks(flat: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    size = chunk_rows() * CHUNK_COLUMNS
    for start in range(0, flat.size, size):
        part = slice(start, min(start + size, flat.size))
        yield part, flat[part]


def _padded(piece: np.ndarray) -> np.ndarray:
    """The weights of a chunk in float32, a shorter one with zeros after them."""
    missing = chunk_rows() * CHUNK_COLUMNS - piece.size
    whole = np.pad(piece, (0, missing)) if missing else piece
    return whole.reshape(-1, CHUNK_COLUMNS).astype(np.float32, copy=False)
