"""MLX's `quantize`: codes of a few bits in 32-bit words, with scales and biases of groups."""

import functools
from collections.abc import Iterator, Mapping

import numpy as np

from flashjax.convert.conventions.stored import WEIGHT, Stored
from flashjax.convert.tensors import Tensors
from flashjax.types import InputError, listed

BITS, GROUPS = (2, 3, 4, 5, 6, 8), (64, 32, 128)  # the usual group first


def mlx(tensors: Tensors) -> Iterator[tuple[str, Stored]]:
    """Codes of a few bits as one stream of 32-bit words, with scales and biases of groups."""
    words = np.dtype(np.uint32)
    found: dict[tuple[str, str, str], tuple[int, int]] = {}
    for name, info in tensors.infos.items():
        layer = name.removesuffix(".scales")
        parts = (layer + WEIGHT, name, layer + ".biases")
        if layer == name:
            continue
        flat = len(info.shape) != 2 or len(tensors.shapes.get(parts[0], ())) != 2
        if flat or parts[2] not in tensors or tensors.infos[parts[0]].dtype != words:
            raise InputError(f"{tensors.where}: {name} is neither MLX's nor known: {parts[0]}?")
        found[parts] = tensors.infos[parts[0]].shape[1], info.shape[1]
    group = _group(tensors, found) if found else 0
    for parts, (given, groups) in found.items():
        shape = (tensors.shapes[parts[1]][0], groups * group)
        read = functools.partial(_affine, bits=32 * given // (groups * group))
        yield parts[0], Stored(parts, shape, read)


def _group(tensors: Tensors, found: Mapping[tuple[str, str, str], tuple[int, int]]) -> int:
    """How many columns share a scale in a file; `found` has each layer's words and groups.

    Half the columns of twice the bits are as many words. But what comes into a layer has come out
    of another, whose rows say how many: that group is taken with which most layers agree.
    InputError where two fit as well, or none.
    """
    rows = {shape[0] for shape in tensors.shapes.values() if shape}
    agreed = {
        group: sum(groups * group in rows for _, groups in found.values())
        for group in GROUPS
        if all(_bits(*sizes, group) in BITS for sizes in found.values())
    }
    best = [group for group, count in agreed.items() if count == max(agreed.values())]
    if len(best) == 1:
        return best[0]
    told = (
        f"with as good reason have {' or '.join(map(str, best))} columns" if best else "be no MLX's"
    )
    raise InputError(
        f"{tensors.where}: the groups of {listed([weight for weight, *_ in found], most=1)} may "
        f"{told}: give the model in 16 bits or GGUF"
    )


def _bits(given: int, groups: int, group: int) -> float:
    """The bits of a code in `given` words."""
    return 32 * given / (groups * group)


def _affine(words: np.ndarray, scales: np.ndarray, biases: np.ndarray, *, bits: int) -> np.ndarray:
    """code * scale + bias, in groups of columns."""
    each = words[..., None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
    places = np.uint32(1) << np.arange(bits, dtype=np.uint32)
    codes = (each.reshape(len(words), scales.shape[1], -1, bits) * places).sum(axis=3)
    scale, bias = (part.astype(np.float32)[..., None] for part in (scales, biases))
    weight = codes.astype(np.float32) * scale + bias
    return weight.reshape(len(words), -1)
