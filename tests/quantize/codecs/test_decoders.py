"""The types of GGUF that are read only, against gguf-py."""

import gguf
import numpy as np
import pytest

from flashjax.quantize.codecs.codec import CODECS, READ_ONLY, UNREAD
from flashjax.quantize.codecs.tensors import decode_tensor
from flashjax.types import InputError

GGML = gguf.GGMLQuantizationType


@pytest.mark.parametrize("codec", READ_ONLY, ids=lambda codec: codec.name)
def test_arbitrary_bytes_are_decoded_as_gguf_py_does_bit_for_bit(codec) -> None:
    sizes = gguf.GGML_QUANT_SIZES[GGML[codec.name]]
    assert (codec.block, codec.block_bytes, codec.ggml_type) == (*sizes, GGML[codec.name])
    codes = np.random.default_rng(0).integers(0, 256, (64, 4 * codec.block_bytes), np.uint8)
    with np.errstate(invalid="ignore"):
        wanted = gguf.quants.dequantize(codes, GGML[codec.name])
    found, finite = np.asarray(codec.decode(codes)), np.isfinite(wanted)
    assert finite.mean() > 0.8  # the rest: steps that are no numbers
    np.testing.assert_array_equal(found[finite].view(np.uint32), wanted[finite].view(np.uint32))
    np.testing.assert_array_equal(np.isfinite(found), finite)


@pytest.mark.parametrize("codec", READ_ONLY, ids=lambda codec: codec.name)
def test_a_tensor_of_any_length_is_decoded_whole(codec) -> None:
    random = np.random.default_rng(1)
    codes = random.integers(0, 0x3C, (3, 2 * codec.block_bytes), np.uint8)  # finite steps
    wanted = gguf.quants.dequantize(codes, GGML[codec.name])
    found = decode_tensor(codes.reshape(-1), codec, shape=wanted.shape)
    np.testing.assert_array_equal(found, wanted)


def test_what_is_read_only_is_never_written() -> None:
    with pytest.raises(InputError, match="read and never written"):
        READ_ONLY[0].encode(np.ones((1, 32), np.float32))


def test_every_type_of_ggml_is_read_or_has_a_name() -> None:
    read = {codec.ggml_type: codec.name for codec in CODECS + READ_ONLY}
    assert not read.keys() & UNREAD.keys()
    assert read | UNREAD == {int(kind): kind.name for kind in GGML}
