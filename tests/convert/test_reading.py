"""Safetensors files are read as the safetensors library wrote them."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from flashjax.convert.reading import open_safetensors
from flashjax.convert.weights import open_weights
from flashjax.types import InputError

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


def arrays():
    random = np.random.default_rng(0)
    return {
        "a.weight": random.normal(size=(3, 5)).astype(np.float32),
        "b": random.normal(size=(7,)).astype(np.float32),
        "scalar": np.array(3.0, np.float32),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_library_wrote_is_read(dtype, tmp_path):
    path = tmp_path / "a.safetensors"
    stored = {name: np.asarray(array.astype(dtype)) for name, array in arrays().items()}
    save_file(stored, path, {"title": "t"})
    tensors = open_safetensors(path)
    assert tensors.metadata == {"title": "t"}
    assert tensors.shapes == {name: array.shape for name, array in stored.items()}
    for name, array in stored.items():
        assert tensors[name].dtype == dtype
        np.testing.assert_array_equal(tensors[name], array)
    np.testing.assert_array_equal(
        tensors.piece("a.weight", 4, 9), stored["a.weight"].reshape(-1)[4:9]
    )


def test_shards_are_read_through_their_index(tmp_path):
    parts = {"a.weight": "model-1.safetensors", "b": "model-2.safetensors"}
    for name, shard in parts.items():
        save_file({name: arrays()[name]}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    tensors = open_weights(tmp_path, "model")
    assert set(tensors) == set(parts)
    np.testing.assert_array_equal(tensors["b"], arrays()["b"])


def test_everything_that_shards_lack_is_in_one_error(tmp_path):
    save_file({"a": arrays()["b"]}, tmp_path / "model-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys("abc", "model-1.safetensors")}))
    with pytest.raises(InputError, match=r"lacks b of model-1.safetensors, c of model-1.safetens"):
        open_weights(tmp_path, "model")
    places = {name: f"model-{name}.safetensors" for name in "bc"}
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InputError, match=r"lacks model-b.safetensors, model-c.safetensors: "):
        open_weights(tmp_path, "model")


def test_a_variant_is_read_where_it_is_all_there_is(tmp_path):
    save_file(arrays(), tmp_path / "model.fp16.safetensors")
    assert set(open_weights(tmp_path, "model")) == set(arrays())


@pytest.mark.parametrize("content", [b"", b"something else altogether", "cut short", "too long"])
def test_a_broken_file_is_named(content, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"b": arrays()["b"]}, path)
    whole = path.read_bytes()
    path.write_bytes({"cut short": whole[:-1], "too long": whole + b"x"}.get(content, content))
    with pytest.raises(InputError, match=r"a.safetensors is no whole safetensors file"):
        open_safetensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"model.safetensors does not exist"):
        open_weights(tmp_path, "model")


def test_packed_integers_are_refused(tmp_path):
    save_file({"a": np.zeros(3, np.int32)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="tensor a is I32; give weights in"):
        open_safetensors(tmp_path / "a.safetensors")
