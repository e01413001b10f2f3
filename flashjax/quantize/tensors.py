"""Whole tensors through a codec, in chunks of one compiled shape and bounded memory."""

import math
from collections.abc import Iterator

import numpy as np

from flashjax.quantize.codecs import Codec
from flashjax.types import InputError

CHUNK_ROWS, CHUNK_COLUMNS = 1024, 256  # 1 MiB of float32: a core's cache holds it
CHUNK = CHUNK_ROWS * CHUNK_COLUMNS


def encode_tensor(array: np.ndarray, codec: Codec, *, name: str) -> tuple[np.ndarray, float]:
    """Encode an array of any shape -> (uint8 bytes, signal-to-noise ratio in dB; inf when exact).

    Raises InputError when rows are no whole blocks, or when a weight is not finite in this type.
    """
    if array.size % codec.block or (array.ndim and array.shape[-1] % codec.block):
        raise InputError(
            f"tensor {name} {array.shape}: {codec.name} needs rows of a multiple of {codec.block}; "
            "choose another type for it"
        )
    codes = np.empty(codec.encoded_bytes(array.size), np.uint8)
    signal = noise = 0.0
    for part, piece in _chunks(array.reshape(-1)):
        encoded = codec.encode(_padded(piece).astype(np.float32))
        stored = slice(codec.encoded_bytes(part.start), codec.encoded_bytes(part.stop))
        codes[stored] = np.asarray(encoded).reshape(-1)[: stored.stop - stored.start]
        clean = piece.astype(np.float64)
        decoded = np.asarray(codec.decode(encoded)).reshape(-1)[: piece.size]
        with np.errstate(invalid="ignore"):  # inf - inf is reported below, by name
            error = decoded - clean
        signal += float(clean @ clean)
        noise += float(error @ error)
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
    return 10 * math.log10(signal / noise) if noise else math.inf


def _chunks(flat: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, flat.size, CHUNK):
        part = slice(start, min(start + CHUNK, flat.size))
        yield part, flat[part]


def _padded(piece: np.ndarray) -> np.ndarray:
    return np.pad(piece, (0, CHUNK - piece.size)).reshape(CHUNK_ROWS, CHUNK_COLUMNS)
