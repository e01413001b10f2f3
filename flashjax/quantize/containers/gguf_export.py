"""An SD3.5 transformer under SAI names -> one GGUF file and a table of its tensors."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flashjax.quantize.codecs.codec import BF16, F16, Q4_K, Q5_K, Q6_K, Q8_0, Codec
from flashjax.quantize.codecs.feedback import encode_q6_k_for
from flashjax.quantize.codecs.tensors import decibels, encode_tensor, peak, rms
from flashjax.quantize.containers.gguf import EncodedTensor, write_gguf
from flashjax.quantize.policy import check_scheme, choose
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


@dataclass(frozen=True)
class Calibration:
    """What is known beyond the weights: second moments of inputs, and chosen types, by name.

    A Q6_K weight with a moment is rounded for its outputs; `codecs` replace the scheme's own.
    """

    moments: Mapping[str, np.ndarray]
    codecs: Mapping[str, Codec]


UNCALIBRATED = Calibration({}, {})


def quantize_transformer(
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    scheme: str,
    path: Path,
    calibration: Calibration = UNCALIBRATED,
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
    write_gguf(path, _encoded(tensors, scheme, table, calibration), keys=keys)
    return table


def _encoded(
    tensors: Iterable[tuple[str, np.ndarray]],
    scheme: str,
    table: dict[str, Written],
    calibration: Calibration,
) -> Iterator[EncodedTensor]:
    """Encode each tensor as `choose` says, and enter it into `table`.

    The position table is "1 n width" for diffusers and ComfyUI; stable-diffusion.cpp takes both.
    """
    for name, array in tensors:
        if name in table:
            raise InputError(f"tensor {name}: given twice; give every tensor once")
        if name == "pos_embed" and array.ndim == 2:  # ggml's own writer drops the leading 1
            array = array[None]
        choice = choose(name, array.shape, scheme=scheme, rms=rms(array), peak=peak(array))
        if choice.codec is check_scheme(scheme) and name in calibration.codecs:
            choice = replace(choice, codec=calibration.codecs[name])
        if choice.codec is Q6_K and name in calibration.moments:
            choice = replace(choice, reason="block weight, rounded for its outputs")
        codes, snr_db = encode_known(calibration, name, array, choice.codec)
        table[name] = Written(choice.codec.name, array.shape, codes.size, snr_db, choice.reason)
        yield EncodedTensor(name, array.shape, choice.codec, codes)


def encode_known(
    calibration: Calibration, name: str, array: np.ndarray, codec: Codec
) -> tuple[np.ndarray, float]:
    """`encode_tensor`, but by error feedback for a Q6_K weight whose inputs are known."""
    if codec is not Q6_K or name not in calibration.moments:
        return encode_tensor(array, codec, name=name)
    if not np.isfinite(array).all():
        raise InputError(f"tensor {name}: holds a weight that is not finite; mend it")
    codes = encode_q6_k_for(array, calibration.moments[name])
    error = np.asarray(codec.decode(codes)) - array.astype(np.float32)
    return codes.reshape(-1), decibels(
        float(np.square(array, dtype=np.float32).sum()), float(np.square(error).sum())
    )
