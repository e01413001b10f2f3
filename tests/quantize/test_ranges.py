"""Weights that float16 does not hold: refused before a byte is written, or kept in 32 bits."""

import json
import logging

import gguf
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from flashjax.cli import main
from flashjax.convert.tensors import in_memory
from flashjax.convert.transformer import abstract_transformer, transformer_to
from flashjax.convert.writing import write_safetensors, write_weights
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.containers.gguf_export import quantize_transformer
from flashjax.quantize.formats import FORMATS, GGUF, Model, fidelity, open_format, write_format
from flashjax.quantize.ranges import check_ranges
from flashjax.types import InputError

CONFIG = MMDiTConfig(
    depth=2, heads=4, dual=1, position_size=8, text_width=64, pooled_width=64, head_width=64
)
BLOCK, EDGE = "joint_blocks.1.x_block.mlp.fc1.weight", "context_embedder.weight"
BIAS = "joint_blocks.1.x_block.mlp.fc1.bias"
COREML = {"coreml-fp16", "coreml-int8", "coreml-lut6"}
GRAPHS = {"onnx-fp16", "openvino-fp16", *COREML}
REFUSED = {  # where one weight of 1e5 lies: the formats that would make it infinite
    BLOCK: {"gguf-f16", "mlx-8", "mlx-6", *GRAPHS},
    EDGE: {*GGUF, "onnx-int8", "openvino-int8", *GRAPHS} - {"gguf-bf16"},
    BIAS: COREML,
}


@pytest.fixture(scope="module")
def plain(random_params):
    """A tiny MMDiT-X under SAI's names, in bfloat16."""
    tensors = transformer_to(random_params(abstract_transformer(CONFIG)), CONFIG, "sai")
    return {name: tensors[name].astype(ml_dtypes.bfloat16) for name in tensors}


def with_peak(plain, name, value=1e5):
    array = plain[name].copy()
    array.reshape(-1)[0] = value
    return in_memory(plain | {name: array}, "model.safetensors")


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_that_cannot_hold_a_weight_is_refused_by_name(plain, name, kind):
    tensors = with_peak(plain, name)
    if kind not in REFUSED[name]:
        check_ranges(tensors, [kind])
        return
    message = rf"{name}.* 9\.98.e\+04.*write it with --format gguf-bf16 or comfy-int8"
    with pytest.raises(InputError, match=message) as caught:
        check_ranges(tensors, [kind])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_in_every_format(plain, value):
    for name in (BLOCK, BIAS):
        with pytest.raises(InputError, match=rf"{name} .*holds NaN or infinity"):
            check_ranges(with_peak(plain, name, value), ["comfy-int8"])


@pytest.mark.parametrize("kind", ["gguf-f16", "mlx-8", "onnx-fp16"])
def test_a_writer_that_is_asked_nevertheless_leaves_nothing(plain, kind, tmp_path):
    model = Model(with_peak(plain, BLOCK), CONFIG, "tiny", sample_size=8)
    with pytest.raises(InputError, match=rf"{BLOCK}.*--format gguf-bf16"):
        write_format(kind, model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bfloat16_gguf_keeps_such_an_embedder_in_32_bits(plain, tmp_path):
    tensors = with_peak(plain, EDGE)
    table = quantize_transformer(tensors.items(), scheme="bf16", path=tmp_path / "x.gguf")
    assert table[EDGE].type == "F32" and table[EDGE].reason == "weights beyond float16"
    (found,) = (t for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors if t.name == EDGE)
    np.testing.assert_array_equal(found.data, tensors[EDGE].astype(np.float32))


@pytest.mark.parametrize("scheme", ["f16", "q8_0", "q6_k"])
def test_weights_below_float16_keep_32_bits_in_gguf(plain, tmp_path, scheme):
    tiny = plain | {BLOCK: plain[BLOCK] * ml_dtypes.bfloat16(1e-7)}
    quantize_transformer(in_memory(tiny).items(), scheme=scheme, path=tmp_path / "x.gguf")
    (found,) = (t for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors if t.name == BLOCK)
    assert found.tensor_type.name == "F32"
    np.testing.assert_array_equal(found.data, tiny[BLOCK].astype(np.float32))


@pytest.mark.parametrize("factor", [1e-6, 1e-9, 1e-30])
def test_weights_that_float16_leaves_little_of_keep_their_own_dtype_in_safetensors(
    plain, tmp_path, caplog, factor
):
    """A few that vanish among others do not matter; a whole tensor does."""
    few = plain[EDGE].copy()
    few[0] *= ml_dtypes.bfloat16(1e-9)
    tiny = {BLOCK: plain[BLOCK] * ml_dtypes.bfloat16(factor), BIAS: plain[BIAS], EDGE: few}
    with caplog.at_level(logging.INFO):
        write_safetensors(tmp_path / "x.safetensors", in_memory(tiny), dtype=np.float16)
        write_weights(tmp_path, "w", in_memory(tiny), dtype=np.float16, max_shard_bytes=2**18)
    assert f"{BLOCK} too small for float16, kept as stored" in caplog.text
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        dtypes = {name: str(file.get_tensor(name).dtype) for name in file.keys()}
        stored = file.get_tensor(BLOCK).float().numpy()
    assert dtypes == {BLOCK: "torch.bfloat16", BIAS: "torch.float16", EDGE: "torch.float16"}
    np.testing.assert_array_equal(stored, tiny[BLOCK].astype(np.float32))
    index = json.loads((tmp_path / "w.safetensors.index.json").read_text())
    shards = [tmp_path / name for name in set(index["weight_map"].values())]
    assert len(shards) > 1
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tiny.values())
    (shard,) = (path for path in shards if BLOCK in load_file(path))
    np.testing.assert_array_equal(load_file(shard)[BLOCK], tiny[BLOCK])


FLOORED = {"mlx-8", "mlx-6", "torchao-int8", *GRAPHS}  # that keep a block's weight with least steps


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_that_would_leave_little_of_a_weight_is_refused_by_name(plain, kind, tmp_path):
    tensors = in_memory(plain | {BLOCK: plain[BLOCK] * ml_dtypes.bfloat16(1e-6)}, "m.safetensors")
    zeros = in_memory(plain | {BLOCK: np.zeros_like(plain[BLOCK]), BIAS: plain[BIAS] * 0})
    check_ranges(zeros, [kind])
    if kind in FLOORED:
        message = rf"{BLOCK}.* on average, too small for {kind}: .*gguf-bf16 or comfy-int8"
        with pytest.raises(InputError, match=message):
            check_ranges(tensors, [kind])
        return
    check_ranges(tensors, [kind])
    if kind in GGUF or kind.startswith("comfy"):
        path = write_format(kind, Model(tensors, CONFIG, "tiny", sample_size=8), tmp_path)
        assert fidelity(tensors, open_format(path, CONFIG))[BLOCK] > 20


def test_the_command_line_refuses_before_it_writes_and_says_what_mends_it(plain, tmp_path, capsys):
    source = tmp_path / "model.safetensors"
    write_safetensors(source, with_peak(plain, EDGE))
    out = tmp_path / "out"
    flags = ["--source", str(source), "--out", str(out)]
    assert main(["quantize", *flags, "--format", "comfy-int8,gguf-q8_0"]) == 2
    error = capsys.readouterr().err
    assert EDGE in error and "--format gguf-bf16" in error
    assert main(["export", *flags, "--format", "sai", "--dtype", "float16"]) == 2
    error = capsys.readouterr().err
    assert f"tensor {EDGE} (256, 64) is not finite in float16" in error
    assert "--dtype bfloat16" in error
    assert not out.exists()
