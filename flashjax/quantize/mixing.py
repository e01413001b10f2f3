"""Eight bits where they help most: a type for each weight, within a size."""

from collections.abc import Callable, Mapping

from flashjax.quantize.codecs import Q6_K, Q8_0, Codec
from flashjax.types import InputError


def choose_codecs(
    sizes: Mapping[str, int], error_of: Callable[[str, Codec], float], *, budget_bytes: int
) -> dict[str, Codec]:
    """Q6_K or Q8_0 for each weight, so that all together take at most `budget_bytes`.

    `sizes` counts the weights of each; `error_of(name, codec)` is the error energy of the model's
    output when that weight alone is stored so. Errors of weights add up, being independent; so
    those weights are raised first whose error falls most for each byte that it costs. InputError
    where even six bits for all do not fit.
    """
    smallest = sum(Q6_K.encoded_bytes(size) for size in sizes.values())
    if smallest > budget_bytes:
        raise InputError(
            f"--size_mb: the weights of blocks take {smallest / 1e6:.2f} MB at six bits and have "
            f"{budget_bytes / 1e6:.2f} MB; allow more"
        )
    extra = {
        name: Q8_0.encoded_bytes(size) - Q6_K.encoded_bytes(size) for name, size in sizes.items()
    }
    gains = {name: error_of(name, Q6_K) - error_of(name, Q8_0) for name in sizes}
    chosen = dict.fromkeys(sizes, Q6_K)
    left = budget_bytes - smallest
    for name in sorted(sizes, key=lambda name: gains[name] / extra[name], reverse=True):
        if gains[name] > 0 and extra[name] <= left:
            chosen[name], left = Q8_0, left - extra[name]
    return chosen
