"""Formats that hold the transformer's graph beside its weights: ONNX, OpenVINO, Core ML."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import cropped_position, parity
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.codecs.palettes import HALF_SCALED_INT8, LUT, PALETTE
from flashjax.quantize.containers.packing import SCALE, Chosen, Packing, packed, unpacked
from flashjax.quantize.containers.packings import ROW_INT8
from flashjax.quantize.graphs import coreml, onnx_file, openvino_ir
from flashjax.types import InputError


@dataclass(frozen=True)
class Exchange:
    """A format: `write(folder, tensors, config)`, its weights packed or all in 16 bits.

    `suffix` ends the folder's name. A `sized` one has one size of pictures, to which the position
    table is cropped.
    """

    packing: Packing | None
    write: Callable[[Path, Tensors, MMDiTConfig], None]
    suffix: str = ""
    sized: bool = False


def _coreml(packing: Packing | None) -> Exchange:
    return Exchange(packing, coreml.write_coreml, ".mlpackage", sized=True)


EXCHANGES = {
    "onnx-fp16": Exchange(None, onnx_file.write_onnx),
    "onnx-int8": Exchange(ROW_INT8, onnx_file.write_onnx),
    "openvino-fp16": Exchange(None, openvino_ir.write_openvino),
    "openvino-int8": Exchange(ROW_INT8, openvino_ir.write_openvino),
    "coreml-fp16": _coreml(None),
    "coreml-int8": _coreml(HALF_SCALED_INT8),
    "coreml-lut6": _coreml(PALETTE),
}
_OPENERS: dict[str, Callable[[Path, MMDiTConfig], Tensors]] = {  # a file of the folder -> reader
    onnx_file.MODEL: onnx_file.open_onnx,
    openvino_ir.XML: openvino_ir.open_openvino,
    coreml.MANIFEST: coreml.open_coreml,
}


def write_exchange(
    name: str,
    folder: Path,
    tensors: Tensors,
    config: MMDiTConfig,
    *,
    sample_size: int,
    chosen: Chosen,
) -> None:
    """Writes SAI's `tensors` in the format `name`, the weights that are `chosen` packed.

    InputError for a format of one size that is not the centre of the position table.
    """
    exchange = EXCHANGES[name]
    if exchange.sized:
        side, table = sample_size // config.patch, config.position_size
        if side > table or (table - side) % 2:
            raise InputError(
                f"--format {name} has one size of pictures, {side} patches a side, no centre of a "
                f"table of {table}: give --position {parity(table)} number up to {min(side, table)}"
            )
        tensors = cropped_position(tensors, side)
    if exchange.packing:
        tensors = packed(tensors, exchange.packing, chosen=chosen)
    exchange.write(folder, tensors, config)


def open_exchange(folder: Path, config: MMDiTConfig) -> Tensors | None:
    """What a folder stands for, under SAI's names; None if it is of another kind."""
    for file, read in _OPENERS.items():
        if (folder / file).is_file():
            tensors = read(folder, config)
            packing = _packing_of(tensors)
            return unpacked(tensors, packing) if packing else tensors
    return None


def _packing_of(tensors: Tensors) -> Packing | None:
    """The packing of the first packed layer."""
    for name, info in tensors.infos.items():
        if name.endswith(LUT):
            return PALETTE
        if name.endswith(SCALE):
            return HALF_SCALED_INT8 if info.dtype == np.float16 else ROW_INT8
    return None
