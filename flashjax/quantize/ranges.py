"""What float16 cannot hold, found before anything is written.

bfloat16 reaches from 1e-38 to 3e38, float16 from 6e-8 to 65504: T5-XXL and fine-tunes have weights
beyond it.
"""

import math
from collections.abc import Iterable

import numpy as np

from flashjax.convert.tensors import Tensors
from flashjax.convert.writing import SMALLEST_HALF
from flashjax.quantize.codecs.tensors import peak, rms
from flashjax.quantize.containers.packing import WEIGHT
from flashjax.quantize.formats import EXCHANGES, GGUF, of_block
from flashjax.quantize.policy import LARGEST, WIDER, choose
from flashjax.types import InputError


def check_ranges(tensors: Tensors, formats: Iterable[str]) -> None:
    """InputError for the first weight (SAI's names) that a format cannot hold, or is no number."""
    formats = list(formats)
    for name in tensors:
        array = tensors[name].astype(np.float32, copy=False)
        largest = peak(array)
        size = rms(array)
        where = f"{tensors.where}: tensor {name} {array.shape} holds"
        if not math.isfinite(largest):
            raise InputError(f"{where} NaN or infinity: mend the checkpoint")
        for kind in formats:
            if kind in GGUF:
                choose(name, array.shape, scheme=GGUF[kind], rms=size, peak=largest)
                continue
            if largest > LARGEST and keeps_half(kind, name, array.ndim):
                raise InputError(f"{where} {largest:.4g}, {kind} ends at 65504: {WIDER}")
            if array.ndim > 1 and 0 < size < SMALLEST_HALF and has_floor(kind, name):
                raise InputError(f"{where} {size:.1e} on average, too small for {kind}: {WIDER}")


def has_floor(kind: str, name: str) -> bool:
    """Whether a format keeps a matrix, or its scales, with a smallest step: torchao's is 1e-7."""
    return keeps_half(kind, name, 2) or (kind.startswith("torchao") and _is_packed(name))


def keeps_half(kind: str, name: str, dims: int) -> bool:
    """Whether a format keeps a tensor, or the scales of its codes, in float16."""
    packed = dims == 2 and _is_packed(name)
    if kind.startswith("mlx"):
        return packed
    if kind.startswith("coreml"):
        return True
    return kind in EXCHANGES and dims > 1 and not (packed and EXCHANGES[kind].packing)


def _is_packed(name: str) -> bool:
    return name.endswith(WEIGHT) and of_block("sai")(name, ())
