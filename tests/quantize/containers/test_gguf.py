"""The container against gguf-py's reader, and broken files."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from flashjax.quantize.codecs.codec import F32, Q6_K, Q8_0, Codec
from flashjax.quantize.codecs.tensors import encode_tensor
from flashjax.quantize.containers.gguf import EncodedTensor, read_gguf, write_gguf
from flashjax.types import InputError

KEYS = {"general.architecture": "sd3", "general.quantization_version": 2}
WEIGHTS = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)


def encoded(name: str, array: np.ndarray, codec: Codec) -> EncodedTensor:
    return EncodedTensor(name, array.shape, codec, encode_tensor(array, codec, name=name)[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of a bias whose size is no multiple of the alignment, and two quantised matrices."""
    bias, table = np.float32([1, 2, 3]), WEIGHTS[None]
    tensors = [encoded("bias", bias, F32), encoded("six", WEIGHTS, Q6_K), encoded("t", table, Q8_0)]
    write_gguf(tmp_path / "model.gguf", iter(tensors), keys=KEYS)
    return tmp_path / "model.gguf"


def test_gguf_py_reads_what_we_write(path: Path) -> None:
    reader = gguf.GGUFReader(path)
    fields = {key: reader.get_field(key).contents() for key in KEYS}
    assert fields == KEYS
    found = {t.name: (t.tensor_type.name, t.shape.tolist()) for t in reader.tensors}
    assert found == {"bias": ("F32", [3]), "six": ("Q6_K", [512, 3]), "t": ("Q8_0", [512, 3, 1])}
    ours = read_gguf(path)
    for tensor in reader.tensors:
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours.array(tensor.name), theirs)


def test_our_reader_reads_what_gguf_py_writes(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "sd3")
    writer.add_array("names", ["a", "bc"])
    writer.add_float64("tiny", 1e-300)
    writer.add_bool("yes", True)
    codes = gguf.quants.quantize(WEIGHTS, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("w", codes, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    file = read_gguf(tmp_path / "theirs.gguf")
    expected = {"general.architecture": "sd3", "names": ["a", "bc"], "tiny": 1e-300, "yes": True}
    assert file.keys == expected
    expected = gguf.quants.dequantize(codes, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(file.array("w"), expected)


def test_a_file_cut_anywhere_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in (2, 10, 60, 150, len(whole) - 32):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.gguf: truncated"):
            read_gguf(cut)


def test_other_files_are_refused_in_one_line(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_gguf(tmp_path / "absent.gguf")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match="does not start with 'GGUF'"):
        read_gguf(other)
    row = path.read_bytes().replace(b"\x0e\x00\x00\x00", b"\x0a\x00\x00\x00")  # Q6_K -> Q2_K
    other.write_bytes(row)
    with pytest.raises(InputError, match="six has ggml type 10"):
        read_gguf(other)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def failing():
        yield encoded("w", WEIGHTS, Q8_0)
        raise InputError("the source is broken")

    with pytest.raises(InputError, match="source is broken"):
        write_gguf(tmp_path / "model.gguf", failing(), keys=KEYS)
    assert list(tmp_path.iterdir()) == []
