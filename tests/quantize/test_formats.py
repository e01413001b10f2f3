"""A tiny transformer in every format: read back, and run by the runtimes that install anywhere."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flashjax.convert.configs import mmdit_config_to_diffusers
from flashjax.convert.tensors import in_memory
from flashjax.convert.transformer import (
    abstract_transformer,
    cropped_position,
    transformer_from,
    transformer_to,
    translated,
)
from flashjax.convert.writing import write_json
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.quantize.formats import (
    EXCHANGES,
    FORMATS,
    INFORMED,
    Model,
    fidelity,
    open_format,
    write_format,
)
from flashjax.sources import open_transformer
from flashjax.types import Cond, InputError

CONFIG = MMDiTConfig(
    depth=2, heads=4, dual=1, position_size=8, text_width=64, pooled_width=64, head_width=64
)
FLOORS_DB = {
    "gguf-f16": 70, "gguf-bf16": 50, "gguf-q8_0": 44, "gguf-q6_k": 34, "gguf-q5_k": 28,
    "gguf-q4_k": 22, "comfy-int8": 40, "comfy-int8-convrot": 41, "comfy-fp8": 31, "mlx-8": 43,
    "mlx-6": 32, "torchao-int8": 40, "onnx-fp16": 70, "onnx-int8": 40, "openvino-fp16": 70,
    "openvino-int8": 40, "coreml-fp16": 70, "coreml-int8": 40, "coreml-lut6": 31,
}  # fmt: skip


FLOORS_DB |= dict.fromkeys(INFORMED, FLOORS_DB["gguf-q6_k"])  # where nothing more is known


@pytest.fixture(scope="module")
def model(random_params) -> Model:
    params = random_params(abstract_transformer(CONFIG))
    return Model(transformer_to(params, CONFIG, "sai"), CONFIG, "tiny", sample_size=8)


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    shapes = {"x": (2, 8, 8, 16), "text": (2, 5, 64), "pooled": (2, 64)}
    found = {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    return found | {"sigma": np.float32([0.9, 0.3])}


def velocity(tensors, inputs) -> np.ndarray:
    """Ours, of the tensors that a file stands for."""
    params = transformer_from(tensors, CONFIG, "sai")
    cond = Cond(inputs["text"], inputs["pooled"])
    out = velocity_of(MMDiT(CONFIG))(params, inputs["x"], inputs["sigma"], cond)
    return np.asarray(out)


def velocity_of_diffusers(transformer, inputs, dtype) -> np.ndarray:
    import torch

    x, text, pooled = (torch.tensor(inputs[key]).to(dtype) for key in ("x", "text", "pooled"))
    with torch.no_grad():
        out = transformer(
            x.permute(0, 3, 1, 2), text, pooled, torch.tensor(inputs["sigma"] * 1000)
        ).sample
    return out.float().permute(0, 2, 3, 1).numpy()


def snr_db(clean: np.ndarray, other: np.ndarray) -> float:
    return 10 * math.log10(np.square(clean).sum() / np.square(other - clean).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_holds_every_tensor_at_its_fidelity(name: str, model, tmp_path: Path) -> None:
    path = write_format(name, model, tmp_path)
    table = fidelity(model.tensors, open_format(path, CONFIG))
    assert min(table.values()) > FLOORS_DB[name]
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in EXCHANGES])
def test_what_is_written_is_a_source_and_written_again_it_changes_little(name, model, tmp_path):
    """A graph is for its runtime alone; everything else is a checkpoint like any other."""
    path = write_format(name, model, tmp_path / "once")
    opened = open_transformer(path)
    assert opened.config == CONFIG
    once, stored = opened.under_sai_names(), open_format(path, CONFIG)
    assert once.shapes == stored.shapes == model.tensors.shapes
    for key in once:
        np.testing.assert_array_equal(once[key], stored[key], err_msg=key)
    again = write_format(name, replace(model, tensors=once), tmp_path / "twice")
    assert min(fidelity(once, open_format(again, CONFIG)).values()) > FLOORS_DB[name]
    assert min(fidelity(model.tensors, open_format(again, CONFIG)).values()) > FLOORS_DB[name] - 3


# diffusers decodes K types in float16; Q4_K's difference of two numbers loses the most by that.
@pytest.mark.parametrize(
    ("name", "least"), [("gguf-q8_0", 60), ("gguf-q6_k", 60), ("gguf-q4_k", 45)]
)
def test_diffusers_computes_what_we_do_from_a_gguf(name, least, model, inputs, tmp_path) -> None:
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    path = write_format(name, model, tmp_path)
    config = mmdit_config_to_diffusers(CONFIG, sample_size=8)
    write_json(tmp_path / "transformer" / "config.json", config)
    loaded = diffusers.SD3Transformer2DModel.from_single_file(
        str(path), config=str(tmp_path), subfolder="transformer", torch_dtype=torch.float32,
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
    )  # fmt: skip
    theirs = velocity_of_diffusers(loaded, inputs, torch.float32)
    assert snr_db(velocity(open_format(path, CONFIG), inputs), theirs) > least


def test_diffusers_computes_what_we_do_from_a_torchao_folder(model, inputs, tmp_path) -> None:
    pytest.importorskip("torchao")
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    path = write_format("torchao-int8", model, tmp_path)
    loaded = diffusers.SD3Transformer2DModel.from_pretrained(path, torch_dtype=torch.bfloat16)
    assert type(loaded.transformer_blocks[0].attn.to_q.weight).__name__ == "Int8Tensor"
    theirs = velocity_of_diffusers(loaded, inputs, torch.bfloat16)
    assert snr_db(velocity(open_format(path, CONFIG), inputs), theirs) > 30  # bfloat16 activations


def test_translation_there_and_back_changes_nothing(model) -> None:
    there = translated(model.tensors, CONFIG, given="sai", wanted="diffusers")
    params = transformer_from(model.tensors, CONFIG, "sai")
    expected = transformer_to(params, CONFIG, "diffusers")
    assert there.shapes == expected.shapes
    for name in expected:
        np.testing.assert_array_equal(there[name], expected[name])
    back = translated(there, CONFIG, given="diffusers", wanted="sai")
    for name in model.tensors:
        np.testing.assert_array_equal(back[name], model.tensors[name])


def test_a_cropped_table_keeps_its_centre(model) -> None:
    small = cropped_position(model.tensors, 4)
    table = model.tensors["pos_embed"].reshape(8, 8, -1)
    np.testing.assert_array_equal(small["pos_embed"], table[2:6, 2:6].reshape(1, 16, -1))
    with pytest.raises(InputError, match="even number of patches up to 8"):
        cropped_position(model.tensors, 10)


def test_sixteen_bits_are_two_bytes_a_weight_however_a_model_is_stored(model) -> None:
    half = model.tensors.in_dtype(np.dtype(np.float16))
    assert half.nbytes == model.half_bytes == replace(model, tensors=half).half_bytes


def test_wrong_input_is_one_line(model, tmp_path: Path) -> None:
    broken = {name: model.tensors[name].copy() for name in model.tensors}
    broken["joint_blocks.0.x_block.attn.qkv.weight"][0, 0] = np.nan
    damaged = Model(in_memory(broken), CONFIG, "tiny")
    for name in ("gguf-q6_k", "mlx-6"):
        with pytest.raises(InputError, match=r"attn\.qkv\.weight.* not finite"):
            write_format(name, damaged, tmp_path)
    assert not list(tmp_path.iterdir())
