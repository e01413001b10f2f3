"""Which GGUF type each tensor of an SD3.5 transformer gets: the profile that every loader accepts.

Block weights are quantised; biases and norms stay F32; the position table, embedders and final
layer stay F16.
"""

from dataclasses import dataclass

import numpy as np

from flashjax.convert.writing import SMALLEST_HALF, stored_as
from flashjax.quantize.codecs.codec import BF16, F16, F32, Q4_K, Q5_K, Q6_K, Q8_0, Codec
from flashjax.types import InputError

SCHEMES: dict[str, Codec] = {
    "f16": F16,
    "bf16": BF16,
    "q8_0": Q8_0,
    "q6_k": Q6_K,
    "q5_k": Q5_K,
    "q4_k": Q4_K,
}
BLOCKS = "joint_blocks."
EMBEDDERS = ("x_embedder.", "t_embedder.", "y_embedder.", "context_embedder.")
EDGES = ("pos_embed", *EMBEDDERS, "final_layer.")

# Steps, and float16 itself, end somewhere: below these root-mean-square weights a type loses its
# usual fidelity (Q6_K has 32 dB left at 5e-4 and 19 at 1e-4, Q8_0 39 dB at 1e-4, F16 55 at 1e-5).
SMALLEST_RMS = {Q4_K: 5e-4, Q5_K: 5e-4, Q6_K: 5e-4, Q8_0: 1e-4, F16: SMALLEST_HALF}
FINER = {Q4_K: Q8_0, Q5_K: Q8_0, Q6_K: Q8_0, Q8_0: F16, F16: F32}
LARGEST = 65504.0  # of float16
WIDER = "write it with --format gguf-bf16 or comfy-int8"  # which hold it


@dataclass(frozen=True)
class Choice:
    """The type that a tensor gets, and why."""

    codec: Codec
    reason: str


def check_scheme(scheme: str) -> Codec:
    """The codec of the block weights of `scheme`; InputError when there is no such scheme."""
    if scheme not in SCHEMES:
        raise InputError(f"scheme {scheme!r} is unknown; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[scheme]


def choose(
    name: str, shape: tuple[int, ...], *, scheme: str, rms: float, peak: float = 0.0
) -> Choice:
    """The type of tensor `name` (SAI key without prefix).

    `rms` is its root-mean-square weight, `peak` its largest. InputError for another name, or a
    weight beyond float16 where the scheme keeps it so.
    """
    codec = check_scheme(scheme)
    if not name.startswith((BLOCKS, *EDGES)):
        raise InputError(f"tensor {name}: not an SAI key of an SD3.5 transformer; give SAI names")
    choice = _in_range(_usual(name, shape, codec), rms)
    if choice.codec is F16 and peak > LARGEST:
        if codec is not BF16:
            raise InputError(f"tensor {name} holds {peak:.4g}, beyond float16's 65504: {WIDER}")
        return Choice(F32, "weights beyond float16")
    return choice


def _usual(name: str, shape: tuple[int, ...], codec: Codec) -> Choice:
    """The type for what a tensor is."""
    if len(shape) < 2:
        return Choice(F32, "bias or norm")
    if not name.startswith(BLOCKS):
        return Choice(F16, "position table, embedder or final layer")
    fitting = codec
    while shape[-1] % fitting.block:  # as ggml does, but with eight bits for all that have fewer
        fitting = FINER[fitting]
    if fitting is not codec:
        return Choice(fitting, f"{shape[-1]} columns are not a multiple of {codec.block}")
    return Choice(codec, "block weight")


def _in_range(choice: Choice, rms: float) -> Choice:
    """The choice, or the next finer type when weights are too small for its steps."""
    codec = choice.codec
    while 0 < rms < SMALLEST_RMS.get(codec, 0.0):
        codec = FINER[codec]
    if codec is choice.codec:
        return choice
    return Choice(codec, f"weights too small for {choice.codec.name} (rms {rms:.1e})")


def as_half(array: np.ndarray, name: str) -> np.ndarray:
    """A tensor in float16. InputError where it does not fit."""
    return stored_as(np.float16, array, f"tensor {name}", advice=WIDER)
