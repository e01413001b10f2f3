"""Which GGUF type each tensor of an SD3.5 transformer gets: the profile that every loader accepts.

Block weights are quantised; biases and norms stay F32; the position table, embedders and final
layer stay F16.
"""

from dataclasses import dataclass

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

# Block steps are float16: below these root-mean-square weights a type loses its usual fidelity
# (Q6_K has 32 dB left at 5e-4 and 19 at 1e-4, Q8_0 39 dB at 1e-4).
SMALLEST_RMS = {Q4_K: 5e-4, Q5_K: 5e-4, Q6_K: 5e-4, Q8_0: 1e-4}


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


def choose(name: str, shape: tuple[int, ...], *, scheme: str, rms: float) -> Choice:
    """The type of tensor `name` (SAI key without prefix) whose root-mean-square weight is `rms`."""
    codec = check_scheme(scheme)
    if not name.startswith((BLOCKS, *EDGES)):
        raise InputError(f"tensor {name}: not an SAI key of an SD3.5 transformer; give SAI names")
    if len(shape) < 2:
        return Choice(F32, "bias or norm")
    if not name.startswith(BLOCKS):
        return Choice(F16, "position table, embedder or final layer")
    if shape[-1] % codec.block:
        return Choice(F16, f"{shape[-1]} columns are not a multiple of {codec.block}")
    return _with_enough_range(codec, rms)


def _with_enough_range(codec: Codec, rms: float) -> Choice:
    """`codec`, or the next finer type when weights are too small for its float16 steps."""
    wide_enough = (c for c in (codec, Q8_0) if rms == 0 or rms >= SMALLEST_RMS.get(c, 0.0))
    finer = next(wide_enough, F16)
    if finer is codec:
        return Choice(codec, "block weight")
    return Choice(finer, f"weights too small for {codec.name} (rms {rms:.1e})")
