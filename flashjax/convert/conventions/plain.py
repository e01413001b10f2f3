"""Codes with scales beside them that nothing else tells of.

Sources: ComfyUI's older files; compressed-tensors; DeepSeek's block scales; torchao's `Int8Tensor`;
optimum-quanto's `QBytesTensor`; bitsandbytes' `Int8Params`.
"""

import functools
from collections.abc import Iterator

from flashjax.convert.conventions.comfy import layers_told
from flashjax.convert.conventions.stored import CODES, WEIGHT, Stored, fitted
from flashjax.convert.tensors import Tensors
from flashjax.types import InputError

# What ends the name of a scale; of the codes; of zero points. {} is the layer.
_ENDS = (
    ("{}.weight_scale", "{}.weight", "{}.weight_zero_point"),
    ("{}.scale_weight", "{}.weight", ""),
    ("{}.weight_scale_inv", "{}.weight", ""),
    ("{}._weight_scale", "{}._weight_qdata", "{}._weight_zero_point"),
    ("{}.weight._scale", "{}.weight._data", ""),
    ("{}.SCB", "{}.weight", ""),
)


def plain(tensors: Tensors) -> Iterator[tuple[str, Stored]]:
    """Codes with scales beside them that no marker tells of."""
    told = set(layers_told(tensors))
    for name in tensors:
        for scale, codes, zero in _ENDS:
            layer = name.removesuffix(scale.format(""))
            if layer == name or layer in told:
                continue
            parts = [codes.format(layer), name]
            where = f"{tensors.where}: {name}"
            if parts[0] not in tensors:
                raise InputError(f"{where} is there, but not {parts[0]}: the file is not whole")
            info = tensors.infos[parts[0]]
            if info.dtype not in CODES:
                raise InputError(
                    f"{where} is there, but {parts[0]} is {info.dtype.name}, no codes of 8 bits "
                    "that a scale could be of: it may be applied already"
                )
            if zero and zero.format(layer) in tensors:
                parts.append(zero.format(layer))
            _check_row_layout(tensors, layer)
            factor = 1 / 127 if scale.endswith(".SCB") else 1.0
            read = functools.partial(fitted, where, factor=factor)
            yield layer + WEIGHT, Stored(tuple(parts), info.shape, read)


def _check_row_layout(tensors: Tensors, layer: str) -> None:
    """InputError where bitsandbytes tiled the codes for one kind of GPU."""
    name = layer + ".weight_format"
    if name in tensors and tensors[name].any():
        raise InputError(f"{tensors.where}: {name} is not row by row: save the model anew")
