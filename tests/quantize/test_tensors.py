"""Whole tensors: chunk borders, fidelity figures, refusals."""

import gguf
import numpy as np
import pytest

from flashjax.quantize.codecs import F16, F32, Q6_K, Q8_0
from flashjax.quantize.tensors import CHUNK, decode_tensor, encode_tensor
from flashjax.types import InputError


def test_chunks_join_without_a_seam() -> None:
    array = np.random.default_rng(0).normal(size=(CHUNK // 256 + 3, 256)).astype(np.float32)
    codes, snr_db = encode_tensor(array, Q8_0, name="w")
    expected = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(codes, expected.reshape(-1))
    decoded = decode_tensor(codes, Q8_0, shape=array.shape)
    assert decoded.shape == array.shape
    noise = np.square(decoded.astype(np.float64) - array).sum()
    assert snr_db == pytest.approx(10 * np.log10(np.square(array).sum() / noise), abs=1e-3)


def test_exact_types_report_infinite_fidelity() -> None:
    assert encode_tensor(np.float32([1.1, -2]), F32, name="b")[1] == np.inf
    assert encode_tensor(np.zeros((1, 256), np.float32), Q6_K, name="zero")[1] == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e5])
def test_a_weight_that_the_type_cannot_hold_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="tensor w: holds a weight that is not finite in F16"):
        encode_tensor(np.float32([1, bad]), F16, name="w")


def test_rows_of_broken_blocks_are_refused() -> None:
    with pytest.raises(InputError, match="rows of a multiple of 256"):
        encode_tensor(np.ones((2, 128), np.float32), Q6_K, name="w")
