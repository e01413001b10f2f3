"""Whole tensors through a codec, in chunks of one compiled shape and bounded memory."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from flashjax.quantize.codecs import Codec
from flashjax.types import InputError

CHUNK_ROWS, CHUNK_COLUMNS = 1024, 256  # 1 MiB of float32: a core's cache holds it
CHUNK = CHUNK_ROWS * CHUNK_COLUMNS


def encode_tensor(
    array: np.ndarray, codec: Codec, *, name: str, importance: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Encode an array of any shape -> (uint8 bytes, signal-to-noise ratio in dB; inf when exact).

    `importance` weighs the squared error of each column, for codecs that can. Chunks are encoded
    side by side, on all cores and devices. Raises InputError when rows are no whole blocks, or when
    a weight is not finite in this type.
    """
    if array.size % codec.block or (array.ndim and array.shape[-1] % codec.block):
        raise InputError(
            f"tensor {name} {array.shape}: {codec.name} needs rows of a multiple of {codec.block}; "
            "choose another type for it"
        )
    codes = np.empty(codec.encoded_bytes(array.size), np.uint8)
    devices = jax.local_devices()

    def encode(job: tuple[int, tuple[slice, np.ndarray]]) -> tuple[float, float]:
        number, (part, piece) = job
        with jax.default_device(devices[number % len(devices)]):
            weights = [_padded(piece).astype(np.float32)]
            if importance is not None:
                weights.append(_padded(_repeated(importance, part)))
            encoded = codec.encode(*weights)
            stored = slice(codec.encoded_bytes(part.start), codec.encoded_bytes(part.stop))
            codes[stored] = np.asarray(encoded).reshape(-1)[: stored.stop - stored.start]
            decoded = np.asarray(codec.decode(encoded)).reshape(-1)[: piece.size]
        return _energies(piece, decoded)

    with ThreadPoolExecutor(max(os.cpu_count() or 1, len(devices))) as pool:
        energies = list(pool.map(encode, enumerate(_chunks(array.reshape(-1)))))
    signal, noise = (sum(parts) for parts in zip(*energies, strict=True))
    if not math.isfinite(noise):
        raise InputError(
            f"tensor {name}: holds a weight that is not finite in {codec.name}; "
            "mend the checkpoint, or keep this tensor in F32"
        )
    return codes, decibels(signal, noise)


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


def _energies(clean: np.ndarray, decoded: np.ndarray) -> tuple[float, float]:
    """The sum of squares of weights, and of what became wrong with them."""
    exact = clean.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf is reported by name
        error = decoded - exact
    return float(exact @ exact), float(error @ error)


def _repeated(row: np.ndarray, part: slice) -> np.ndarray:
    """The numbers of a row's columns for a run of the flattened weights."""
    return np.asarray(row, np.float32)[np.arange(part.start, part.stop) % row.size]


def _chunks(flat: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, flat.size, CHUNK):
        part = slice(start, min(start + CHUNK, flat.size))
        yield part, flat[part]


def _padded(piece: np.ndarray) -> np.ndarray:
    return np.pad(piece, (0, CHUNK - piece.size)).reshape(CHUNK_ROWS, CHUNK_COLUMNS)
