"""Whole tensors through a codec, in chunks of one compiled shape and bounded memory."""

import functools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flashjax.quantize.codecs import Codec
from flashjax.types import InputError

CHUNK_ROWS, CHUNK_COLUMNS = 1024, 256  # 1 MiB of float32: a core's cache holds it
CHUNK = CHUNK_ROWS * CHUNK_COLUMNS


def encode_tensor(array: np.ndarray, codec: Codec, *, name: str) -> tuple[np.ndarray, float]:
    """Encode an array of any shape -> (uint8 bytes, signal-to-noise ratio in dB; inf when exact).

    Chunks are encoded side by side, on all cores or devices. Raises InputError when rows are no
    whole blocks, or when a weight is not finite in this type.
    """
    if array.size % codec.block or (array.ndim and array.shape[-1] % codec.block):
        raise InputError(
            f"tensor {name} {array.shape}: {codec.name} needs rows of a multiple of {codec.block}; "
            "choose another type for it"
        )
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
            "mend the checkpoint, or keep this tensor in F32"
        )
    return codes, decibels(float(signal), float(noise))


def decode_tensor(codes: np.ndarray, codec: Codec, *, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 bytes of `encode_tensor` -> float32 array of `shape`."""
    flat = np.empty(math.prod(shape), np.float32)
    for part, piece in _chunks(flat):
        encoded = codes[codec.encoded_bytes(part.start) : codec.encoded_bytes(part.stop)]
        padded = np.zeros(codec.encoded_bytes(CHUNK), np.uint8)
        padded[: encoded.size] = encoded
        decoded = np.asarray(codec.decode(padded.reshape(CHUNK_ROWS, -1)))
        piece[:] = decoded.reshape(-1)[: piece.size]
    return flat.reshape(shape)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies; inf when there is no noise."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def rms(array: np.ndarray) -> float:
    """The root of the mean square."""
    flat = array.reshape(-1).astype(np.float32, copy=False)
    return math.sqrt(float(flat @ flat) / flat.size)


@functools.partial(jax.jit, static_argnums=2)
def _energies(weights: Array, encoded: Array, decode: Callable[[Array], Array]) -> Array:
    """The sums of squares "2 rows" of weights, and of what became wrong with them."""
    error = decode(encoded) - weights
    return jnp.stack([jnp.square(weights).sum(axis=1), jnp.square(error).sum(axis=1)])


def _chunks(flat: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, flat.size, CHUNK):
        part = slice(start, min(start + CHUNK, flat.size))
        yield part, flat[part]


def _padded(piece: np.ndarray) -> np.ndarray:
    """The weights of a chunk in float32, a shorter one with zeros after them."""
    whole = piece if piece.size == CHUNK else np.pad(piece, (0, CHUNK - piece.size))
    return whole.reshape(CHUNK_ROWS, CHUNK_COLUMNS).astype(np.float32, copy=False)
