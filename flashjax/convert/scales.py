"""Weights that a file keeps as codes and scales: each convention in use is undone, or named."""

import itertools
import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from flashjax.convert.conventions.comfy import MARKER, METADATA, comfy, is_told
from flashjax.convert.conventions.mlx import mlx
from flashjax.convert.conventions.plain import plain
from flashjax.convert.conventions.stored import CODES, Stored
from flashjax.convert.tensors import Info, Tensors
from flashjax.types import InputError, listed

ZERO_POINT = "weight_zero_point"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a block
# Of activations, of a layout that is the only one, or a marker: nothing that a weight depends on.
_LEFT_OUT = (".input_scale", ".scale_input", ".output_scale", ".weight_format", "scaled_fp8")
_REFUSED = {  # the end of a name: whose it is
    ".absmax": "bitsandbytes' 4 bits",
    ".qweight": "GPTQ's, AWQ's or SVDQuant's packed codes",
    ".weight_packed": "compressed-tensors' packed codes",
    ".W_q": "HQQ's packed codes",
    ".weight._packed": "quanto's packed codes",
    ".weight._shift": "quanto's packed codes",
    ".pre_quant_scale": "ModelOpt's smoothing",
    ".weight_scale_2": "NVFP4",
}


def dequantised(tensors: Tensors) -> Tensors:
    """The tensors with every weight that is kept as codes and scales in float32; others as is.

    InputError names a convention that is not known, a part that is missing or does not fit.
    """
    refused = {
        name: whose
        for name in tensors
        for end, whose in _REFUSED.items()
        if name.endswith(end) and not is_told(tensors, name.removesuffix(end))
    }
    if refused:
        raise InputError(
            f"{tensors.where}: {listed(list(refused))}: {next(iter(refused.values()))}, which "
            "flashjax does not read; give the model in 16 bits, 8 bits or GGUF"
        )
    found: dict[str, Stored] = {}
    for name, stored in itertools.chain(comfy(tensors), plain(tensors), mlx(tensors)):
        if name in found:
            ways = ", ".join((*found[name].parts[1:], *stored.parts[1:]))
            raise InputError(f"{tensors.where}: {name} has scales in two ways: {ways}; keep one")
        found[name] = stored
    _check_scales(tensors, found)
    _check_siblings(tensors, found)
    used = {name for name in tensors if name.endswith((*_LEFT_OUT, MARKER))}
    used |= {part for stored in found.values() for part in stored.parts}
    if not used:
        return tensors
    made = {name: Info(stored.shape, np.dtype(np.float32)) for name, stored in found.items()}

    def read(name: str) -> np.ndarray:
        stored = found[name]
        return stored.read(*(tensors[part] for part in stored.parts))

    metadata = {key: text for key, text in tensors.metadata.items() if key != METADATA}
    if metadata.get("format") == "mlx":
        metadata["format"] = "pt"
    whole = tensors.overlaid(made, read, without=used)
    return Tensors(whole.where, whole.infos, whole.piece, metadata)


def _check_scales(tensors: Tensors, found: Mapping[str, Stored]) -> None:
    """InputError for a scale that is itself a code, as MXFP8's exponents are: no factor.

    Zero points are whole numbers.
    """
    scales = [part for stored in found.values() for part in stored.parts[1:]]
    codes = [
        f"{name} is {tensors.infos[name].dtype.name}"
        for name in scales
        if not name.endswith(ZERO_POINT)
        and not jnp.issubdtype(tensors.infos[name].dtype, jnp.floating)
    ]
    if codes:
        raise InputError(
            f"{tensors.where}: {listed(codes)}: codes of scales (MXFP8's?), which flashjax does "
            "not read; give the model in 16 bits, 8 bits with scales in floats, or GGUF"
        )


def _check_siblings(tensors: Tensors, found: Mapping[str, Stored]) -> None:
    """InputError for codes without a scale where the same layer of another block has one.

    In 8-bit floats they would pass for weights.
    """
    scales = {_NUMBER.sub("#", name): stored.parts for name, stored in found.items()}
    for name, info in tensors.infos.items():
        parts = scales.get(_NUMBER.sub("#", name))
        if parts and name not in found and info.dtype in CODES:
            raise InputError(
                f"{tensors.where}: {name} is {info.dtype.name} without a scale, and others like "
                f"it have one ({parts[1]}): the file is not whole"
            )
