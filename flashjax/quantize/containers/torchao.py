"""A network's folder that diffusers or transformers loads with torchao, int8 weights inside.

Source: torchao's `flatten_tensor_state_dict`, by which both libraries save and load.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashjax.convert.configs import Json
from flashjax.convert.tensors import Tensors
from flashjax.convert.writing import write_json, write_safetensors
from flashjax.quantize.containers.packing import WEIGHT, Chosen, packed, packed_layers
from flashjax.quantize.containers.packings import TORCHAO_INT8


def write_torchao(folder: Path, stem: str, plain: Tensors, config: Json, *, chosen: Chosen) -> None:
    """Writes `stem`.safetensors and its config.json; the weights that are `chosen` become int8."""
    tensors = packed(plain, TORCHAO_INT8, chosen=chosen)
    layers = set(packed_layers(tensors, TORCHAO_INT8))
    kept = [name.removesuffix(WEIGHT) for name in plain if name.endswith(WEIGHT)]
    skip = [name for name in kept if name not in layers and len(plain.shapes[name + WEIGHT]) == 2]
    how = {"quantization_config": torchao_config(sorted(skip))}
    write_json(folder / "config.json", config | how)
    types = dict(_types(plain, layers))
    write_safetensors(folder / f"{stem}.safetensors", tensors, metadata={"format": "pt"} | types)


def torchao_config(skip: list[str]) -> Json:
    """The `quantization_config` by which both libraries find torchao's Int8WeightOnlyConfig."""
    granularity = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
    data = {"granularity": granularity, "group_size": None, "set_inductor_config": True}
    return {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": data}},
        "modules_to_not_convert": skip,
    }


def _types(plain: Tensors, layers: set[str]) -> Iterator[tuple[str, str]]:
    """Which parameters there are and the class of each, as torchao's own writer says it."""
    yield "tensor_names", json.dumps(list(plain))
    dtype = {"_type": "torch.dtype", "_data": "bfloat16"}  # the only one that diffusers takes
    names = ["qdata", "scale", "zero_point"]
    for name, info in plain.infos.items():
        if name.removesuffix(WEIGHT) not in layers or not name.endswith(WEIGHT):
            yield name, json.dumps({"_type": "Tensor"})
            continue
        data: dict[str, Any] = {"block_size": [1, info.shape[1]], "dtype": dtype}
        data |= {"act_quant_kwargs": None, "reduce_range": False}
        yield name, json.dumps({"_type": "Int8Tensor", "_data": data, "_tensor_data_names": names})
