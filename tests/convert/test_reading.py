"""Safetensors files are read as the safetensors library wrote them."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from flashjax.convert.reading import open_safetensors, read_json
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
        open_safetensors(tmp_path / "model.safetensors")


BROKEN = {
    "empty": b"",
    "cut short": b"{",
    "list": b"[]",
    "number": b"3",
    "deep objects": b'{"a": ' * 100_000,
    "deep lists": b"[" * 100_000,
    "UTF-16": b"\xff\xfe{",
    "long number": b'{"a": 1' + b"0" * 9999 + b"}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_json_file_without_an_object_is_one_line(name, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(BROKEN[name])
    with pytest.raises(InputError, match=r"json (is not JSON|holds no JSON object)") as caught:
        read_json(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_an_editors_mark_before_a_json_file_is_no_part_of_it(tmp_path):
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "config.json") == {"a": 1}


def test_packed_integers_are_refused(tmp_path):
    save_file({"a": np.zeros(3, np.int32)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="tensor a is I32; give weights in"):
        open_safetensors(tmp_path / "a.safetensors")
