"""Every format that a quantised transformer is written in, and read back from, by name.

Writers take SAI's names (without prefix), tensor by tensor; what they write appears whole or not
at all, and is proved by reading it back.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.convert.configs import mmdit_config_to_diffusers
from flashjax.convert.reading import open_safetensors
from flashjax.convert.sai import model_spec
from flashjax.convert.scales import dequantised
from flashjax.convert.table import FLOAT32
from flashjax.convert.tensors import Shape, Tensors
from flashjax.convert.transformer import (
    BLOCK_PREFIX,
    cropped_position,
    transformer_from,
    translated,
)
from flashjax.convert.weights import open_weights
from flashjax.convert.writing import replacing, write_safetensors
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.variants import SD3_VAE
from flashjax.quantize.codecs.tensors import decibels
from flashjax.quantize.containers.gguf import is_gguf, open_gguf
from flashjax.quantize.containers.gguf_export import UNCALIBRATED, Calibration, quantize_transformer
from flashjax.quantize.containers.packing import Packing, packed
from flashjax.quantize.containers.packings import (
    COMFY_FP8,
    COMFY_INT8,
    COMFY_INT8_ROTATED,
    TORCHAO_INT8,
    mlx_affine,
)
from flashjax.quantize.containers.torchao import write_torchao
from flashjax.quantize.graphs.exchange import EXCHANGES, open_exchange, write_exchange
from flashjax.types import Params

GGUF = {f"gguf-{scheme}": scheme for scheme in ("f16", "bf16", "q8_0", "q6_k", "q5_k", "q4_k")}
# Files of Q6_K that more is known of than the weights: rounded for outputs; some weights at eight
# bits; fine-tuned on the grid.
CALIBRATED, MIXED, TUNED = INFORMED = ("gguf-q6_k-calibrated", "gguf-mixed", "gguf-q6_k-tuned")
GGUF |= dict.fromkeys(INFORMED, "q6_k")
SINGLE = {
    packing.name: packing
    for packing in (COMFY_INT8, COMFY_INT8_ROTATED, COMFY_FP8, mlx_affine(8), mlx_affine(6))
}
FOLDER = {TORCHAO_INT8.name: TORCHAO_INT8}
FORMATS = (*GGUF, *SINGLE, *FOLDER, *EXCHANGES)
DIFFUSERS_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Model:
    """A transformer to be written: its tensors under SAI's names, its sizes, what it is called.

    `sample_size` is the side of the latents that it draws.
    """

    tensors: Tensors
    config: MMDiTConfig
    title: str
    sample_size: int = 128
    factor: int = SD3_VAE.factor  # pixels along a latent

    @property
    def half_bytes(self) -> int:
        """What its tensors would take at 16 bits, however they are stored."""
        return 2 * sum(info.size for info in self.tensors.infos.values())


def file_of(format_name: str) -> str:
    """The name of the file or folder of a format."""
    if format_name in GGUF:
        return f"transformer-{format_name.removeprefix('gguf-')}.gguf"
    if format_name in EXCHANGES:
        return f"transformer-{format_name}{EXCHANGES[format_name].suffix}"
    return f"transformer-{format_name}" + (".safetensors" if format_name in SINGLE else "")


def write_format(
    format_name: str, model: Model, out: Path, calibration: Calibration = UNCALIBRATED
) -> Path:
    """Writes `model` in one format under `out`. Returns the path of the file or folder.

    `calibration` is for GGUF alone.
    """
    path = out / file_of(format_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if format_name in GGUF:
        scheme, items = GGUF[format_name], model.tensors.items()
        quantize_transformer(items, scheme=scheme, path=path, calibration=calibration)
    elif format_name in SINGLE:
        packing = SINGLE[format_name]
        tensors = packed(model.tensors, packing, chosen=of_block("sai"))
        write_safetensors(path, tensors, metadata=_metadata(model, packing))
    else:
        with replacing(path) as new:
            new.mkdir()
            if format_name in EXCHANGES:
                _write_exchange(format_name, new, model)
            else:
                _write_torchao(new, model)
    return path


def _write_exchange(format_name: str, folder: Path, model: Model) -> None:
    write_exchange(
        format_name,
        folder,
        model.tensors,
        model.config,
        sample_size=model.sample_size,
        chosen=of_block("sai"),
    )


def of_block(naming: str) -> Any:
    """Chooses the weights of blocks; embedders, final layer and position table keep 16 bits."""
    prefix = BLOCK_PREFIX[naming].split("{")[0]

    def chosen(name: str, shape: Shape) -> bool:
        del shape
        return name.startswith(prefix)

    return chosen


def _write_torchao(folder: Path, model: Model) -> None:
    plain = translated(model.tensors, model.config, given="sai", wanted="diffusers")
    config = mmdit_config_to_diffusers(model.config, sample_size=model.sample_size)
    write_torchao(folder, DIFFUSERS_STEM, plain, config, chosen=of_block("diffusers"))


def _metadata(model: Model, packing: Packing) -> Mapping[str, str]:
    if packing.name.startswith("mlx"):
        return {"format": "mlx", "title": model.title}
    return model_spec(model.config, title=model.title, side=model.factor * model.sample_size)


def open_format(path: Path, config: MMDiTConfig) -> Tensors:
    """What a file or folder that `write_format` wrote stands for, under SAI's names."""
    if (exchange := open_exchange(path, config)) is not None:
        return exchange
    if path.is_dir():
        stored = open_weights(path, DIFFUSERS_STEM)
        return translated(stored, config, given="diffusers", wanted="sai")
    if is_gguf(path):
        return open_gguf(path)
    return dequantised(open_safetensors(path))


def read_format(path: Path, config: MMDiTConfig) -> Params:
    """What a file or folder that `write_format` wrote stands for, as a tree in float32."""
    return transformer_from(open_format(path, config), config, "sai", FLOAT32)


def fidelity(given: Tensors, stored: Tensors) -> dict[str, float]:
    """The signal-to-noise ratio in dB of every tensor of a file; inf where it is exact.

    Where a format crops the position table, so is the one that was given.
    """
    if "pos_embed" in stored and stored.shapes["pos_embed"] != given.shapes["pos_embed"]:
        given = cropped_position(given, math.isqrt(stored.shapes["pos_embed"][1]))
    if given.shapes != stored.shapes:
        raise OSError(f"{stored.where} does not hold the tensors that were written to it")
    return {name: _snr(given[name], stored[name]) for name in given}


def _snr(clean: np.ndarray, stored: np.ndarray) -> float:
    clean, stored = (array.reshape(-1).astype(np.float32) for array in (clean, stored))
    error = stored - clean
    return decibels(float(clean @ clean), float(error @ error))
