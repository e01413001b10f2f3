"""Safetensors files: the oracle is the safetensors library."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from flashjax.convert.tensors import open_safetensors, open_weights, write_safetensors
from flashjax.types import InputError

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def arrays():
    random = np.random.default_rng(0)
    return {
        "a.weight": random.normal(size=(3, 5)).astype(np.float32),
        "b": random.normal(size=(7,)).astype(np.float32).T,
        "c": random.normal(size=(2, 3, 4)).astype(np.float32).transpose(2, 0, 1),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_reads_what_is_written(dtype, tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, arrays(), dtype=dtype, metadata={"title": "t"})
    found = load_file(path)
    assert found.keys() == arrays().keys()
    for name, array in arrays().items():
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], array.astype(dtype))
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt", "title": "t"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_library_wrote_is_read(dtype, tmp_path):
    path = tmp_path / "a.safetensors"
    stored = {name: np.ascontiguousarray(array.astype(dtype)) for name, array in arrays().items()}
    save_file(stored, path)
    tensors = open_safetensors(path)
    assert tensors.shapes == {name: array.shape for name, array in stored.items()}
    for name, array in stored.items():
        assert tensors.read(name).dtype == np.float32
        np.testing.assert_array_equal(tensors.read(name), array.astype(np.float32))


def test_shards_are_read_through_their_index(tmp_path):
    parts = {"a.weight": "model-1.safetensors", "b": "model-2.safetensors"}
    for name, shard in parts.items():
        save_file({name: arrays()[name]}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    tensors = open_weights(tmp_path, "model")
    assert set(tensors.shapes) == set(parts)
    np.testing.assert_array_equal(tensors.read("b"), arrays()["b"])

    index.write_text(json.dumps({"weight_map": parts | {"c": "model-2.safetensors"}}))
    with pytest.raises(InputError, match=r"model-2.safetensors lacks c"):
        open_weights(tmp_path, "model")
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-2.safetensors does not exist"):
        open_weights(tmp_path, "model")


@pytest.mark.parametrize("content", [b"", b"something else altogether", "cut short"])
def test_a_broken_file_is_named(content, tmp_path):
    path = tmp_path / "a.safetensors"
    if content == "cut short":
        save_file({"b": arrays()["b"]}, path)
        content = path.read_bytes()[:-1]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a.safetensors is no whole safetensors file"):
        open_safetensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"model.safetensors does not exist"):
        open_weights(tmp_path, "model")


def test_quantised_weights_are_refused(tmp_path):
    save_file({"a": np.zeros(3, ml_dtypes.float8_e4m3fn)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="tensor a is F8_E4M3"):
        open_safetensors(tmp_path / "a.safetensors")


def test_weights_too_large_for_the_dtype_leave_no_file_behind(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("an older file")
    with pytest.raises(InputError, match="tensor b is not finite in float16"):
        write_safetensors(path, {"a": np.ones(2), "b": np.full(2, 7e4)}, dtype=np.float16)
    assert path.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [path]
