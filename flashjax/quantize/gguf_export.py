"""An SD3.5 transformer under SAI names -> one GGUF file and a table of its tensors."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flashjax.quantize.codecs import BF16, F16, Q4_K, Q5_K, Q6_K, Q8_0
from flashjax.quantize.gguf import EncodedTensor, write_gguf
from flashjax.quantize.policy import check_scheme, choose
from flashjax.quantize.tensors import encode_tensor
from flashjax.types import InputError

FILE_TYPES = {
    F16: 1,
    Q8_0: 7,
    Q4_K: 14,
    Q5_K: 16,
    Q6_K: 18,
    BF16: 32,
}  # general.file_type: what most of the weights are
QUANTIZATION_VERSION = 2


@dataclass(frozen=True)
class Written:
    """One row of the table: type, size in the file, fidelity (inf when exact), why this type."""

    type: str
    shape: tuple[int, ...]
    bytes: int
    snr_db: float
    reason: str


def quantize_transformer(
    tensors: Iterable[tuple[str, np.ndarray]], *, scheme: str, path: Path
) -> dict[str, Written]:
    """Write `tensors` (SAI name without prefix, torch layout) to a GGUF file at `path`.

    `scheme` ("f16", "q8_0" or "q6_k") holds for the block weights; policy.py knows the others.
    Tensors are taken once, one at a time. Returns name -> Written. Raises InputError for an unknown
    scheme, a name that is not SAI's, a name given twice, or weights that are not finite.
    """
    codec = check_scheme(scheme)
    keys: dict[str, str | int] = {
        "general.architecture": "sd3",
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": FILE_TYPES[codec],
    }
    table: dict[str, Written] = {}
    write_gguf(path, _encoded(tensors, scheme, table), keys=keys)
    return table


def _encoded(
    tensors: Iterable[tuple[str, np.ndarray]], scheme: str, table: dict[str, Written]
) -> Iterator[EncodedTensor]:
    """Encode each tensor as `choose` says, and enter it into `table`."""
    for name, array in tensors:
        if name in table:
            raise InputError(f"tensor {name}: given twice; give every tensor once")
        choice = choose(name, array.shape, scheme=scheme, rms=_rms(array))
        codes, snr_db = encode_tensor(array, choice.codec, name=name)
        table[name] = Written(choice.codec.name, array.shape, codes.size, snr_db, choice.reason)
        yield EncodedTensor(name, array.shape, choice.codec, codes)


def _rms(array: np.ndarray) -> float:
    flat = array.reshape(-1).astype(np.float32, copy=False)
    return math.sqrt(float(flat @ flat) / flat.size)
