"""Safetensors files are read as the safetensors library wrote them."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flashjax.convert.reading import open_safetensors
from flashjax.convert.weights import open_weights
from flashjax.data.jsons import read_json
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


DAMAGED = {
    "empty": b"",
    "text": b"something else altogether",
    "cut short": lambda whole: whole[:-1],
    "cut in its header": lambda whole: whole[:40],
    "too long": lambda whole: whole + b"x",
}
MESSAGES = {"empty": "a.safetensors is empty", "text": "is a text that begins 'something else"}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_broken_file_is_named(name, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"b": arrays()["b"]}, path)
    broken = DAMAGED[name]
    path.write_bytes(broken if isinstance(broken, bytes) else broken(path.read_bytes()))
    message = MESSAGES.get(name, r"a.safetensors is no whole safetensors file, fetch it anew")
    with pytest.raises(InputError, match=message):
        open_safetensors(path)


def written(path, header, size):
    """A file with a header of our own, and `size` bytes of tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(size)))
    return path


def entry(start, stop, shape=None, dtype="F32"):
    shape = [(stop - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


A, TWICE = entry(0, 16), json.dumps(entry(0, 16)).encode()
LAID_OUT = {
    "overlapping": ({"a": A, "b": entry(12, 24)}, 24, "tensor b overlaps a: byte 12, not 16"),
    "one on the other": ({"a": A, "b": entry(0, 16)}, 16, "tensor b overlaps a: byte 0, not 16"),
    "with a hole": ({"a": A, "b": entry(20, 32)}, 32, "b leaves a hole after a: byte 20, not 16"),
    "shifted": ({"a": entry(4, 20)}, 20, "a leaves a hole after the header: byte 4, not 0"),
    "backwards": ({"a": entry(16, 0, [4])}, 16, "tensor a .4,. has -16 bytes"),
    "of another size": ({"a": entry(0, 16, [5])}, 16, r"tensor a \(5,\) has 16 bytes"),
    "negative": ({"a": entry(0, 16, [-2, -2])}, 16, "of tensor a are no whole numbers"),
    "of no type": ({"a": entry(0, 16, dtype="F31")}, 16, "a is F31, a type that the format does"),
    "twice there": (b'{"a":' + TWICE + b',"a":' + TWICE + b"}", 16, "a is there twice"),
    "a list": ([A], 16, "its header is no object"),
    "of more than any model": (
        {f"t{i}": entry(0, 0) for i in range(100_001)},
        0,
        "holds 100001 tensors: no model has so",
    ),
    "half told": ({"a": {"dtype": "F32"}}, 16, "its header says too little of tensor a"),
}


@pytest.mark.parametrize("name", LAID_OUT)
def test_what_the_library_refuses_is_refused_in_a_line(name, tmp_path):
    header, size, message = LAID_OUT[name]
    path = written(tmp_path / "a.safetensors", header, size)
    if name not in ("twice there", "of more than any model"):  # the library takes the last, or all
        with pytest.raises(SafetensorError):
            safe_open(path, "np")
    with pytest.raises(InputError, match=message) as caught:
        open_safetensors(path)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("dtype", [np.int32, np.int16, np.uint64, np.bool_])
def test_a_dtype_is_judged_when_a_tensor_is_read(dtype, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.zeros(3, dtype), "b": arrays()["b"]}, path)
    tensors = open_safetensors(path)
    assert tensors.shapes == {"a": (3,), "b": (7,)}
    np.testing.assert_array_equal(tensors["b"], arrays()["b"])
    with pytest.raises(InputError, match=r"tensor a is \w+; give weights in U8, I8, F8_E5M2"):
        tensors["a"]


def test_doubles_are_read_in_float32(tmp_path):
    wide = np.random.default_rng(0).normal(size=(5, 3))
    save_file({"a": wide}, tmp_path / "a.safetensors")
    tensors = open_safetensors(tmp_path / "a.safetensors")
    assert tensors.infos["a"].dtype == np.float32
    np.testing.assert_array_equal(tensors["a"], wide.astype(np.float32))
    np.testing.assert_array_equal(
        tensors.piece("a", 4, 9), wide.reshape(-1)[4:9].astype(np.float32)
    )


def test_a_folder_with_a_pickle_alone_says_so(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"\x80\x02}q")
    with pytest.raises(InputError, match=r"model.bin is a pickle, which flashjax never reads: con"):
        open_weights(tmp_path, "model")
