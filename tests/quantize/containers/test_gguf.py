"""The container against gguf-py's reader, and broken files."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from flashjax.quantize.codecs.codec import F32, Q6_K, Q8_0, Codec
from flashjax.quantize.codecs.tensors import encode_tensor
from flashjax.quantize.containers.gguf import EncodedTensor, open_gguf, read_gguf, write_gguf
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
    row = path.read_bytes().replace(b"\x0e\x00\x00\x00", b"\x1c\x00\x00\x00")  # Q6_K -> F64
    other.write_bytes(row)
    with pytest.raises(InputError, match="six has ggml type F64, need one of F32, F16"):
        read_gguf(other)
    other.write_bytes(path.read_bytes().replace(b"GGUF\3\0\0\0", b"GGUF\0\0\0\3"))
    with pytest.raises(InputError, match=r"version 50331648, of the other byte order, need 3"):
        read_gguf(other)


def theirs(path: Path, tensors, **keys) -> Path:
    """A file that gguf-py wrote."""
    writer = gguf.GGUFWriter(path, "sd3")
    for key, value in keys.items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add(key.replace("__", "."), value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16", "F32"])
def test_every_type_that_gguf_py_writes_is_read_as_it_reads_it(kind: str, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[kind]
    path = theirs(tmp_path / "theirs.gguf", {"w": (WEIGHTS, kind), "v": (WEIGHTS[:1], kind)})
    (tensor, _) = gguf.GGUFReader(path).tensors
    wanted = gguf.quants.dequantize(tensor.data, kind)
    np.testing.assert_array_equal(open_gguf(path)["w"], wanted)
    again = path.read_bytes().replace(b"GGUF\3", b"GGUF\2", 1)
    path.write_bytes(again)  # version 2 has the same bytes
    np.testing.assert_array_equal(open_gguf(path)["w"], wanted)


def test_the_shape_before_a_converter_changed_it_is_the_one_that_counts(tmp_path: Path) -> None:
    tensors = {"pos_embed": (WEIGHTS, gguf.GGMLQuantizationType.F32)}
    key = "comfy__gguf__orig_shape__pos_embed"
    path = theirs(tmp_path / "a.gguf", tensors, **{key: [1, 6, 256]})
    np.testing.assert_array_equal(open_gguf(path)["pos_embed"], WEIGHTS.reshape(1, 6, 256))
    path = theirs(tmp_path / "b.gguf", tensors, **{key: [1, 6, 255]})
    with pytest.raises(InputError, match=r"pos_embed \(3, 512\) cannot have been \[1, 6, 255\]"):
        open_gguf(path)
    path = theirs(tmp_path / "c.gguf", tensors, split__count=3)
    with pytest.raises(InputError, match="is one of 3 parts: join them"):
        open_gguf(path)


def test_a_table_that_lies_is_refused_in_a_line(path: Path, tmp_path: Path) -> None:
    whole, lying = path.read_bytes(), tmp_path / "lying.gguf"
    row = struct.pack("<Q", 3) + b"six" + struct.pack("<IQQI", 2, 512, 3, 14)
    start = whole.index(row) + len(row)
    (offset,) = struct.unpack_from("<Q", whole, start)
    lies = {
        (start, struct.pack("<Q", 0)): "tensor six begins at byte .* where bias ends at",
        (start, struct.pack("<Q", offset + 4)): "tensor six begins at byte",
        (start, struct.pack("<Q", offset + 2**40)): "damaged in tensor six",
        (start - 24, struct.pack("<I", 5)): "damaged in tensor six of 5 dims",
    }
    for (at, new), message in lies.items():
        lying.write_bytes(whole[:at] + new + whole[at + len(new) :])
        with pytest.raises(InputError, match=message):
            read_gguf(lying)
    twice = whole.replace(struct.pack("<Q", 1) + b"t", struct.pack("<Q", 3) + b"six")
    lying.write_bytes(twice)
    with pytest.raises(InputError, match="the tensor six is there twice"):
        read_gguf(lying)


def test_arrays_of_arrays_are_no_end_of_the_reader(tmp_path: Path) -> None:
    """Twelve bytes a level: a file of a megabyte would be deeper than any stack."""
    deep = struct.pack("<I", 9) + 100_000 * struct.pack("<IQ", 9, 1)
    key = struct.pack("<Q", 1) + b"a"
    path = tmp_path / "deep.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + deep)
    with pytest.raises(InputError, match=r"damaged in a key \(an array of arrays\)"):
        read_gguf(path)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def failing():
        yield encoded("w", WEIGHTS, Q8_0)
        raise InputError("the source is broken")

    with pytest.raises(InputError, match="source is broken"):
        write_gguf(tmp_path / "model.gguf", failing(), keys=KEYS)
    assert list(tmp_path.iterdir()) == []
