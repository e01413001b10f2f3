"""Safetensors files: the oracle is the safetensors library."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from flashjax.convert import writing
from flashjax.convert.tensors import in_memory
from flashjax.convert.weights import open_weights
from flashjax.convert.writing import write_safetensors, write_weights
from flashjax.types import InputError

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def arrays():
    random = np.random.default_rng(0)
    return {
        "c": random.normal(size=(2, 3, 4)).astype(np.float32).transpose(2, 0, 1),
        "a.weight": random.normal(size=(3, 5)).astype(np.float32),
        "b": random.normal(size=(7,)).astype(np.float32),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_reads_what_is_written(dtype, tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, in_memory(arrays()), dtype=dtype, metadata={"title": "t"})
    found = load_file(path)
    assert found.keys() == arrays().keys()
    for name, array in arrays().items():
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], array.astype(dtype))
    with safe_open(path, "np") as file:
        assert file.metadata() == {"title": "t"}


@pytest.mark.parametrize("piece", [4, 2**24])
def test_files_equal_the_librarys_byte_for_byte(piece, tmp_path, monkeypatch):
    """However large the pieces are in which a tensor is written."""
    monkeypatch.setattr(writing, "PIECE_ELEMENTS", piece)
    dtypes = (np.float16, np.float32, ml_dtypes.bfloat16)
    stored = {
        name: np.ascontiguousarray(array.astype(dtype))
        for (name, array), dtype in zip(arrays().items(), dtypes, strict=True)
    }
    save_file(stored, tmp_path / "theirs", {"format": "pt"})
    write_safetensors(tmp_path / "ours", in_memory(stored))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_large_weights_are_cut_into_shards_with_an_index(tmp_path):
    write_weights(tmp_path, "model", in_memory(arrays()), max_shard_bytes=100)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(a.nbytes for a in arrays().values())}
    assert len(set(index["weight_map"].values())) == 2
    assert "model-00001-of-00002.safetensors" in index["weight_map"].values()
    read = open_weights(tmp_path, "model")
    for name, array in arrays().items():
        np.testing.assert_array_equal(read[name], array)


def test_weights_too_large_for_the_dtype_leave_no_file_behind(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("an older file")
    large = in_memory({"a": np.ones(2, np.float32), "b": np.full(2, 7e4, np.float32)})
    with pytest.raises(InputError, match="tensor b is not finite in float16"):
        write_safetensors(path, large, dtype=np.float16)
    assert path.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_lies_is_found_out(tmp_path, monkeypatch):
    other = in_memory({name: array + 1 for name, array in arrays().items()})
    monkeypatch.setattr(writing, "open_safetensors", lambda path: other)
    with pytest.raises(OSError, match="reads back other than it was written"):
        write_safetensors(tmp_path / "a.safetensors", in_memory(arrays()))
    assert list(tmp_path.iterdir()) == []
