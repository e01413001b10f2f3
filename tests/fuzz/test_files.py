"""Mutants of safetensors and GGUF files: refused, or read as the formats' own libraries do."""

import json

import gguf
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from flashjax.convert.reading import open_safetensors
from flashjax.quantize.codecs.codec import CODECS
from flashjax.quantize.codecs.tensors import encode_tensor
from flashjax.quantize.containers.gguf import EncodedTensor, open_gguf, write_gguf


def arrays():
    random = np.random.default_rng(0)
    shapes = {"a.weight": (4, 256), "a.bias": (4,), "b": (2, 3, 5), "c": (1, 7)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def same(one, other):
    """Whether arrays have equal names, shapes and bits."""
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape
        and np.array_equal(
            np.atleast_1d(one[name]).view(np.uint8), np.atleast_1d(other[name]).view(np.uint8)
        )
        for name in one
    )


@pytest.fixture(scope="module")
def safe():
    found = arrays() | {"half": np.float16([1, 2]), "empty": np.zeros((0, 3), np.float32)}
    return safetensors.numpy.save(found, {"format": "pt"})


def library(content):
    """What the format's own library reads, or None where it refuses."""
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OverflowError):
        return None


def check_safetensors(content, place, outcome):
    path = place / "x.safetensors"
    path.write_bytes(content)
    ours = outcome(lambda: dict(open_safetensors(path)))
    theirs = library(content)
    if theirs is None:
        assert ours is None, "the format's library refuses this file"
    if ours is not None:
        kinds = {name: array.dtype for name, array in ours.items()}
        assert same(ours, {name: array.astype(kinds[name]) for name, array in theirs.items()})


@given(data=st.data())
def test_bytes_of_safetensors(data, mutants, safe, place, outcome):
    head = 8 + int.from_bytes(safe[:8], "little")
    check_safetensors(data.draw(mutants.bytes_of(safe, head=head)), place, outcome)


@given(data=st.data())
def test_headers_of_safetensors(data, mutants, safe, place, outcome):
    """Offsets that overlap, are shifted or leave holes; sizes that do not fit; other types."""
    size = int.from_bytes(safe[:8], "little")
    header = json.loads(safe[8 : 8 + size])
    text = json.dumps(data.draw(mutants.objects_of(header))).encode()
    check_safetensors(len(text).to_bytes(8, "little") + text + safe[8 + size :], place, outcome)


@pytest.fixture(scope="module")
def ggml(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    codecs = {codec.name: codec for codec in CODECS}
    kinds = {"a.weight": "Q6_K", "a.bias": "F32", "b": "F16", "c": "F32"}
    encoded = [
        EncodedTensor(
            name,
            array.shape,
            codecs[kinds[name]],
            encode_tensor(array, codecs[kinds[name]], name=name)[0],
        )
        for name, array in arrays().items()
    ]
    write_gguf(path, encoded, keys={"general.architecture": "sd3", "general.file_type": 1})
    return path.read_bytes()


@given(data=st.data())
def test_bytes_of_gguf(data, mutants, ggml, place, outcome):
    path = place / "x.gguf"
    whole = path.with_name("whole.gguf")
    whole.write_bytes(ggml)
    head = gguf.GGUFReader(whole).data_offset
    path.write_bytes(data.draw(mutants.bytes_of(ggml, head=head)))
    with np.errstate(all="ignore"):  # scales may be anything
        ours = outcome(lambda: dict(open_gguf(path)))
    if ours is not None:
        found = gguf.GGUFReader(path).tensors
        with np.errstate(all="ignore"):
            theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in found}
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array.ravel(), theirs[name].ravel())
