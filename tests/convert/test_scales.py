"""Weights kept as codes and scales: the oracles are comfy-kitchen, MLX and torch's arithmetic."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from comfy_kitchen.tensor.fp8 import TensorCoreFP8Layout
from comfy_kitchen.tensor.int8 import TensorWiseINT8Layout
from safetensors.torch import save_file

from flashjax.convert.reading import open_safetensors
from flashjax.convert.scales import dequantised
from flashjax.convert.tensors import in_memory
from flashjax.convert.weights import open_weights
from flashjax.types import InputError

WEIGHT = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
F8, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def marker(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def opened(tmp_path, tensors, **metadata):
    """What is read of a file that the safetensors library wrote."""
    path = tmp_path / "model.safetensors"
    given = {k: v if isinstance(v, torch.Tensor) else torch.tensor(v) for k, v in tensors.items()}
    save_file({name: value.contiguous() for name, value in given.items()}, path, metadata or None)
    return dequantised(open_safetensors(path))


def int8(**how):
    """Codes and scale of comfy-kitchen, and the weight that it makes of them."""
    codes, params = TensorWiseINT8Layout.quantize(torch.tensor(WEIGHT), **how)
    return codes, params.scale, TensorWiseINT8Layout.dequantize(codes, params).numpy()


def fp8(dtype=F8):
    codes, params = TensorCoreFP8Layout.quantize(torch.tensor(WEIGHT), dtype=dtype)
    return codes, params.scale, TensorCoreFP8Layout.dequantize(codes, params).numpy()


@pytest.mark.parametrize("group", [16, 64, 256])
@pytest.mark.parametrize("form", ["spaced", "compact", "reordered", "nested", "padded", "metadata"])
def test_a_rotated_layer_is_what_comfy_kitchen_makes_of_it(form, group, tmp_path) -> None:
    codes, scale, wanted = int8(per_channel=True, convrot=True, convrot_groupsize=group)
    says = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": group}
    texts = {
        "spaced": json.dumps(says),
        "compact": json.dumps(says, separators=(",", ":")),
        "reordered": json.dumps(dict(reversed(says.items()))),
        "nested": json.dumps({"format": says.pop("format"), "params": says}),
        "padded": json.dumps(says | {"format": "int8_tensorwise"}) + "\0\0",
    }
    tensors = {"net.a.weight": codes, "net.a.weight_scale": scale}
    metadata = {}
    if form == "metadata":  # which may leave out the prefix
        layers = {"a": says | {"format": "int8_tensorwise"}}
        metadata = {"_quantization_metadata": json.dumps({"layers": layers}), "title": "t"}
    else:
        tensors["net.a.comfy_quant"] = marker(texts[form])
    found = opened(tmp_path, tensors, **metadata)
    assert list(found) == ["net.a.weight"]
    assert found.metadata == {key: text for key, text in metadata.items() if key == "title"}
    np.testing.assert_allclose(found["net.a.weight"], wanted, atol=1e-5)


def test_every_layer_is_read_as_its_own_marker_says(tmp_path) -> None:
    ways = {
        "a": ("int8_tensorwise", int8(per_channel=True)),
        "b": ("int8_tensorwise", int8()),
        "c": ("float8_e4m3fn", fp8()),
        "d": ("float8_e5m2", fp8(E5M2)),
        "e": ("float8_e4m3fn", fp8()),
    }
    tensors = {"f.weight": torch.tensor(WEIGHT).half()}
    for layer, (kind, (codes, scale, _)) in ways.items():
        tensors |= {f"{layer}.weight": codes, f"{layer}.weight_scale": scale}
        tensors[f"{layer}.comfy_quant"] = marker(json.dumps({"format": kind}))
        tensors[f"{layer}.input_scale"] = torch.tensor(1.0)
    tensors["e.weight"] = tensors["e.weight"].view(torch.uint8)  # as older files have it
    found = opened(tmp_path, tensors)
    assert set(found) == {f"{layer}.weight" for layer in "abcdef"}
    for layer, (_, (_, _, wanted)) in ways.items():
        np.testing.assert_allclose(found[f"{layer}.weight"], wanted, atol=1e-6)
    assert found.infos["f.weight"].dtype == np.float16


@pytest.mark.parametrize("suffix", ["weight_scale", "scale_weight"])
@pytest.mark.parametrize("dtype", [F8, E5M2])
def test_scaled_fp8_without_markers_is_multiplied_out(suffix, dtype, tmp_path) -> None:
    codes, scale, wanted = fp8(dtype)
    tensors = {"a.weight": codes, f"a.{suffix}": scale, "a.scale_input": torch.tensor(1.0)}
    found = opened(
        tmp_path, tensors | {"scaled_fp8": torch.zeros(0, dtype=dtype), "b": torch.ones(3)}
    )
    assert set(found) == {"a.weight", "b"}
    np.testing.assert_allclose(found["a.weight"], wanted, atol=1e-6)


def shaped_scales():
    """Scales of every shape in use, and what torch's broadcasting makes of codes by them."""
    random = np.random.default_rng(1)
    codes = torch.tensor(random.integers(-127, 128, (64, 512)), dtype=torch.int8)

    def scale(*shape):
        return torch.tensor(random.uniform(0.01, 0.1, shape), dtype=torch.float32)

    one, row, flat, block, group = scale(1), scale(64, 1), scale(64), scale(2, 4), scale(64, 16)
    blocks = block.repeat_interleave(32, 0).repeat_interleave(128, 1)
    wide = codes.float()
    zero = torch.tensor(random.integers(-9, 9, (64, 1)), dtype=torch.int8)
    return {
        "compressed-tensors, rows": ({"weight": codes, "weight_scale": row}, wide * row),
        "compressed-tensors, groups": (
            {"weight": codes, "weight_scale": group}, wide * group.repeat_interleave(32, 1),
        ),
        "compressed-tensors, zero points": (
            {"weight": codes, "weight_scale": row, "weight_zero_point": zero}, (wide - zero) * row,
        ),
        "one number": ({"weight": codes, "weight_scale": one}, wide * one),
        "a vector": ({"weight": codes, "scale_weight": flat}, wide * flat[:, None]),
        "DeepSeek, blocks": (
            {"weight": codes.to(F8), "weight_scale_inv": block}, codes.to(F8).float() * blocks,
        ),
        "torchao": ({"_weight_qdata": codes, "_weight_scale": row}, wide * row),
        "quanto": ({"weight._data": codes, "weight._scale": row, "output_scale": one}, wide * row),
        "bitsandbytes": (
            {"weight": codes, "SCB": flat, "weight_format": torch.tensor(0, dtype=torch.uint8)},
            wide * flat[:, None] / 127,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", shaped_scales())
def test_each_convention_of_eight_bits_is_torch_s_product(name, tmp_path) -> None:
    parts, wanted = shaped_scales()[name]
    bias = torch.ones(64, dtype=torch.bfloat16)
    found = opened(tmp_path, {f"a.{key}": value for key, value in parts.items()} | {"a.bias": bias})
    assert set(found) == {"a.weight", "a.bias"}
    np.testing.assert_allclose(found["a.weight"], wanted.numpy(), rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_mlx_codes_are_what_mlx_makes_of_them(bits, group, tmp_path) -> None:
    """Of any group: another one of other bits has as many words, but the layers do not fit."""
    mx = pytest.importorskip("mlx.core")
    parts = mx.quantize(mx.array(WEIGHT), group_size=group, bits=bits)
    wanted = np.array(mx.dequantize(*parts, group_size=group, bits=bits))
    names = ("a.weight", "a.scales", "a.biases")
    given = {name: torch.tensor(np.array(part)) for name, part in zip(names, parts, strict=True)}
    found = opened(tmp_path, given | {"before.bias": torch.zeros(512)}, format="mlx")
    assert found.metadata == {"format": "pt"}
    np.testing.assert_allclose(found["a.weight"], wanted, atol=1e-5)


CODES, FP8 = np.ones((64, 512), np.int8), np.ones((4, 4), ml_dtypes.float8_e4m3fn)
BYTES, WORDS = np.ones((64, 256), np.uint8), np.ones((64, 64), np.uint32)
ONE, MANY = np.float32(1), np.ones((64, 8), np.float32)


def told(weight, **says):
    """A layer with a marker and one scale."""
    text = json.dumps(says)
    return {"weight": weight, "weight_scale": ONE, "comfy_quant": marker(text)}


REFUSED = {
    "NVFP4": (told(BYTES, format="nvfp4"), "comfy_quant says 'nvfp4' of uint8"),
    "no format": (told(CODES, convrot=True), "comfy_quant says None of int8"),
    "an unknown word": (told(CODES, format="int8_tensorwise", hadamard=8), "says hadamard, which"),
    "no JSON": (told(CODES) | {"comfy_quant": marker("{int8}")}, "comfy_quant is not JSON"),
    "no scale": (
        {"weight": CODES, "comfy_quant": marker('{"format": "int8_tensorwise"}')},
        "says 'int8_tensorwise', but there is no a.weight_scale",
    ),
    "other codes": (
        told(FP8, format="float8_e5m2"), "says float8_e5m2, but the codes are float8_e4m3fn",
    ),
    "a group that cannot be": (
        told(CODES, format="int8_tensorwise", convrot=True, convrot_groupsize=1024),
        "says convrot_groupsize 1024 of",
    ),
    "other blocks": (told(CODES, format="int8_blockwise", group_size=64), "says blocks of 64"),
    "16 bits": (
        {"weight": np.ones((4, 4), np.float16), "weight_scale": ONE},
        "a.weight is float16, no codes of 8 bits",
    ),
    "scales that do not fit": ({"weight": CODES, "weight_scale": MANY[0]}, "they do not fit"),
    "blocks of no size": (
        {"weight": np.ones((160, 512), np.int8), "weight_scale": MANY[:2]}, "they do not fit",
    ),
    "scales alone": ({"weight_scale": ONE}, "a.weight_scale is there, but not a.weight"),
    "two ways": (
        {"weight": CODES, "weight_scale": ONE, "scale_weight": ONE},
        "a.weight has scales in two ways: a.weight_scale, a.scale_weight",
    ),
    "tiled by bitsandbytes": (
        {"weight": CODES, "SCB": MANY[:, 0], "weight_format": np.uint8(1)},
        "weight_format is not row by row",
    ),
    "4 bits": (
        {"weight": BYTES, "weight.absmax": MANY[0]},
        "a.weight.absmax: bitsandbytes' 4 bits, which flashjax does not read",
    ),
    "GPTQ": ({"qweight": WORDS, "scales": MANY}, "a.qweight: GPTQ's, AWQ's or SVDQuant's packed"),
    "quanto's 4 bits": ({"weight._data": BYTES, "weight._shift": MANY}, "quanto's packed codes"),
    "ModelOpt's smoothing": ({"weight": CODES, "pre_quant_scale": MANY}, "ModelOpt's smoothing"),
    "scales in codes": (
        {"weight": FP8, "weight_scale": np.full((4, 1), 127, np.uint8)},
        "a.weight_scale is uint8: codes of scales",
    ),
    "a marked layer's scales in codes": (
        told(CODES, format="int8_tensorwise") | {"weight_scale": np.uint8(127)},
        "a.weight_scale is uint8: codes of scales",
    ),
    "MLX with scales in codes": (
        {
            "weight": WORDS, "scales": np.ones((64, 8), np.uint8), "biases": MANY,
            "before": np.zeros(512, np.float32),
        },
        "a.scales is uint8: codes of scales",
    ),
    "MLX of two groups": (
        {"weight": WORDS, "scales": MANY, "biases": MANY},
        "groups of a.weight may with as good reason have 64 or 32 or 128 columns",
    ),
    "MLX of no groups": (
        {"weight": WORDS[:, :7], "scales": MANY, "biases": MANY}, "may be no MLX's",
    ),
    "MLX without biases": ({"weight": WORDS, "scales": MANY}, "a.scales is neither MLX's nor"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_undone_is_named_in_a_line(name) -> None:
    parts, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        found = dequantised(
            in_memory({f"a.{key}": np.asarray(part) for key, part in parts.items()})
        )
        found["a.weight"]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("scale", ["weight_scale", "scale_weight", "weight_scale_inv"])
def test_a_scale_that_is_lost_is_missed(dtype, scale) -> None:
    """Codes in 8-bit floats would pass for weights: what other blocks have tells them apart."""
    layers = {f"joint_blocks.{block}.x_block.mlp.fc1": np.ones((4, 4), dtype) for block in range(3)}
    whole = {f"{layer}.weight": codes for layer, codes in layers.items()}
    whole |= {f"{layer}.{scale}": ONE for layer in layers}
    plain = {"joint_blocks.0.x_block.mlp.fc2.weight": FP8, "pos_embed": FP8}
    found = dequantised(in_memory(whole | plain))
    assert all(found.infos[name].dtype == FP8.dtype for name in plain)
    del whole[f"joint_blocks.1.x_block.mlp.fc1.{scale}"]
    message = r"joint_blocks.1.x_block.mlp.fc1.weight is \w+ without a scale, and others like it"
    with pytest.raises(InputError, match=message):
        dequantised(in_memory(whole | plain))


def test_a_folder_s_codes_are_undone_too(tmp_path) -> None:
    codes, scale, wanted = int8(per_channel=True)
    save_file({"a.weight": codes, "a.weight_scale": scale}, tmp_path / "model.safetensors")
    np.testing.assert_allclose(open_weights(tmp_path, "model")["a.weight"], wanted, atol=1e-6)
