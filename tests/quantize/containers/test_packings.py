"""Packings against the runtimes that read them: comfy-kitchen, MLX and torchao, byte for byte."""

import numpy as np
import pytest

from flashjax.convert.tensors import in_memory
from flashjax.quantize.containers.packing import packed, unpacked
from flashjax.quantize.containers.packings import (
    COMFY_FP8,
    COMFY_INT8,
    COMFY_INT8_ROTATED,
    TORCHAO_INT8,
    mlx_affine,
    rotation,
)

ALL = (COMFY_INT8, COMFY_INT8_ROTATED, COMFY_FP8, TORCHAO_INT8, mlx_affine(8), mlx_affine(6))


def weights(rows: int = 48, columns: int = 512) -> np.ndarray:
    """float16 values with outliers, a row of zeros and a column that is large."""
    found = np.random.default_rng(0).standard_t(4, (rows, columns)).astype(np.float32) / 50
    found[3], found[:, 7] = 0, found[:, 7] * 20
    return found.astype(np.float16).astype(np.float32)


def parts_of(packing, weight: np.ndarray) -> dict[str, np.ndarray]:
    tensors = packed(in_memory({"a.weight": weight}), packing, chosen=lambda *_: True)
    return {name.removeprefix("a"): tensors[name] for name in tensors}


@pytest.mark.parametrize(
    ("packing", "floor_db"),
    list(zip(ALL, (27, 37, 31, 27, 40, 28), strict=True)),
    ids=lambda value: getattr(value, "name", None),
)
def test_unpacking_gives_the_weight_back(packing, floor_db) -> None:
    plain = {"a.weight": weights(), "a.bias": np.float16([1, 2]), "b.weight": np.ones((2, 3))}
    stored = packed(in_memory(plain), packing, chosen=lambda name, _: name.startswith("a."))
    assert "b.weight" in stored and stored["b.weight"].dtype == np.float64
    back = unpacked(stored, packing)
    assert back.shapes == {name: array.shape for name, array in plain.items()}
    error = np.square(back["a.weight"] - weights()).sum()
    assert 10 * np.log10(np.square(weights()).sum() / error) > floor_db
    np.testing.assert_array_equal(back["a.bias"], plain["a.bias"])


def test_the_rotation_undoes_itself_and_follows_the_width() -> None:
    matrix = rotation(1536)
    np.testing.assert_allclose(matrix @ matrix, np.eye(256), atol=1e-6)
    assert [len(rotation(width)) for width in (2432, 6144, 48)] == [64, 256, 16]


@pytest.mark.parametrize("packing", [COMFY_INT8, COMFY_INT8_ROTATED], ids=lambda p: p.name)
def test_comfy_int8_writes_what_comfy_kitchen_does(packing) -> None:
    pytest.importorskip("comfy_kitchen")
    import torch
    from comfy_kitchen.tensor.int8 import TensorWiseINT8Layout as Layout

    ours = parts_of(packing, weights())
    rotate = {"convrot": True} if packing is COMFY_INT8_ROTATED else {}
    codes, params = Layout.quantize(torch.tensor(weights()), per_channel=True, **rotate)
    assert ours[".weight_scale"].shape == tuple(params.scale.shape)
    if not rotate:
        np.testing.assert_array_equal(ours[".weight"], codes.numpy())
        np.testing.assert_array_equal(ours[".weight_scale"], params.scale.numpy())
    else:  # sums of 256 products, in another order
        np.testing.assert_allclose(ours[".weight_scale"], params.scale.numpy(), rtol=1e-5)
        assert (ours[".weight"] == codes.numpy()).mean() > 0.999
    theirs = Layout.dequantize(torch.tensor(ours[".weight"]), params).numpy()
    stored = in_memory({"a" + key: value for key, value in ours.items()})
    np.testing.assert_allclose(unpacked(stored, packing)["a.weight"], theirs, atol=1e-5)


def test_comfy_fp8_writes_what_comfy_kitchen_does() -> None:
    kitchen = pytest.importorskip("comfy_kitchen")
    import torch

    ours = parts_of(COMFY_FP8, weights())
    scale = torch.tensor(ours[".weight_scale"])
    assert float(scale) == pytest.approx(np.abs(weights()).max() / 448)
    theirs = kitchen.quantize_per_tensor_fp8(torch.tensor(weights()), scale)
    np.testing.assert_array_equal(ours[".weight"].view(np.uint8), theirs.view(torch.uint8).numpy())


@pytest.mark.parametrize("bits", [8, 6])
def test_mlx_affine_writes_what_mlx_does(bits: int) -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX has no build for this machine")
    half = mx.array(weights()).astype(mx.float16)
    codes, scales, biases = mx.quantize(half, group_size=64, bits=bits)
    ours = parts_of(mlx_affine(bits), weights())
    np.testing.assert_array_equal(ours[".scales"], np.array(scales))
    np.testing.assert_array_equal(ours[".biases"], np.array(biases))
    np.testing.assert_array_equal(ours[".weight"], np.array(codes))


def test_torchao_int8_writes_what_torchao_does() -> None:
    pytest.importorskip("torchao")
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = torch.nn.Linear(512, 48, bias=False)
    layer.weight.data = torch.tensor(weights())
    quantize_(layer, Int8WeightOnlyConfig())
    ours = parts_of(TORCHAO_INT8, weights())
    np.testing.assert_array_equal(ours["._weight_qdata"], layer.weight.qdata.numpy())
    np.testing.assert_array_equal(ours["._weight_scale"], layer.weight.scale.numpy())
    np.testing.assert_array_equal(ours["._weight_zero_point"], layer.weight.zero_point.numpy())
