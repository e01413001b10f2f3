"""The codecs against gguf-py and against bytes that ggml's C quantiser wrote."""

import hashlib

import gguf
import jax
import numpy as np
import pytest

from flashjax.quantize.codecs.blocks import mend_quotient, mend_root
from flashjax.quantize.codecs.codec import CODECS, F16, Q4_K, Q5_K, Q6_K, Q8_0

GGML = gguf.GGMLQuantizationType

# sha256 of what ggml's `quantize_row_*_K_ref` (ggml-org/ggml@d99724f, gcc -O2 -ffp-contract=off)
# write for `awkward_weights()`.
GGML_SHA256 = {
    "Q6_K": "e24d2a62f4fd3cf1ae3d8eb658e24b88a008c03ec11f395fde96487f57bb0237",
    "Q5_K": "dce69d9d0b2a9da7e9d54e12238adf12f343ca5ba7e7ef12579f9c8933ce083f",
    "Q4_K": "96c20be56c44a28c0ddeab2f8209dbe1c62bf890c756a7056e9775a87d7af765",
}


def normal_weights(std: float = 0.02) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32) * np.float32(std)


def awkward_weights() -> np.ndarray:
    """64 blocks from exact float32 arithmetic: flat, peaked, too small for float16 steps, zero."""
    integers = np.random.RandomState(0).randint(-1000, 1001, (64, 256))  # a frozen stream
    weights = np.float32(integers) / np.float32(1000)
    weights[32:48] = weights[32:48] * weights[32:48] * weights[32:48]
    weights[0, 16:32] = 0
    scales = np.float32([0.02] * 48 + [1e-4] * 6 + [3e-5] * 6 + [0] * 4)
    return weights * scales[:, None]


def signal_to_noise_db(clean: np.ndarray, decoded: np.ndarray) -> float:
    clean = clean.astype(np.float64)
    return 10 * np.log10(np.square(clean).sum() / np.square(decoded - clean).sum())


@pytest.mark.parametrize("weights", [normal_weights(), normal_weights(1e-6), awkward_weights()])
def test_q8_0_writes_the_bytes_of_gguf_py(weights: np.ndarray) -> None:
    np.testing.assert_array_equal(Q8_0.encode(weights), gguf.quants.quantize(weights, GGML.Q8_0))


def test_q8_0_rounds_ties_like_gguf_py() -> None:
    bits = normal_weights().view(np.uint32) & 0xFFFF0000  # bfloat16 values meet many ties
    weights = bits.view(np.float32)
    np.testing.assert_array_equal(Q8_0.encode(weights), gguf.quants.quantize(weights, GGML.Q8_0))


@pytest.mark.parametrize("codec", [Q6_K, Q5_K, Q4_K], ids=lambda codec: codec.name)
def test_k_types_write_the_bytes_of_ggml(codec) -> None:
    written = np.asarray(codec.encode(awkward_weights())).tobytes()
    assert hashlib.sha256(written).hexdigest() == GGML_SHA256[codec.name]


def test_importance_moves_error_to_the_columns_that_do_not_matter() -> None:
    weights = normal_weights()
    importance = np.where(np.arange(512) % 16 < 4, np.float32(100), np.float32(1))
    plain, weighed = (
        np.square(np.asarray(Q6_K.decode(codes)) - weights) * importance
        for codes in (
            Q6_K.encode(weights),
            Q6_K.encode(weights, np.broadcast_to(importance, weights.shape)),
        )
    )
    assert weighed.sum() < 0.9 * plain.sum()


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_decoding_equals_gguf_py_bit_for_bit(codec) -> None:
    codes = np.asarray(codec.encode(normal_weights()))
    expected = gguf.quants.dequantize(codes, GGML[codec.name])
    np.testing.assert_array_equal(
        np.asarray(codec.decode(codes)).view(np.uint32), expected.view(np.uint32)
    )


def test_q6_k_decodes_arbitrary_bytes_like_gguf_py() -> None:
    codes = np.random.default_rng(1).integers(0, 256, (8, 420), np.uint8)
    codes[:, [209, 419]] &= 0x3B  # a finite positive float16 step
    expected = gguf.quants.dequantize(codes, GGML.Q6_K)
    np.testing.assert_array_equal(Q6_K.decode(codes), expected)


@pytest.mark.parametrize(
    ("codec", "floor_db"), [(Q8_0, 45.0), (Q6_K, 34.5), (Q5_K, 28.0), (Q4_K, 22.0), (F16, 70.0)]
)
def test_normal_weights_keep_their_fidelity(codec, floor_db: float) -> None:
    weights = normal_weights()
    decoded = np.asarray(codec.decode(codec.encode(weights)))
    assert signal_to_noise_db(weights, decoded) >= floor_db


def test_f16_keeps_subnormal_weights() -> None:
    weights = normal_weights(1e-6)
    np.testing.assert_array_equal(F16.decode(F16.encode(weights)), np.float16(weights))


@pytest.mark.parametrize("places", [-2, -1, 1, 2])
def test_a_quotient_and_a_root_that_are_off_are_mended(places: int) -> None:
    """What accelerators give for x / d and sqrt(x), mended to what IEEE 754 asks for."""
    random = np.random.default_rng(0)
    x, divisor = random.uniform(1, 2, (2, 2**18)).astype(np.float32) * np.float32([[0.02], [-31]])

    def off(exact: np.ndarray) -> np.ndarray:
        return (exact.view(np.int32) + places).view(np.float32)

    mended = jax.jit(mend_quotient)(off(x / divisor), x, divisor)
    np.testing.assert_array_equal(mended, x / divisor)
    assert (np.asarray(jax.jit(mend_root)(off(np.sqrt(x)), x)) != np.sqrt(x)).mean() < 1e-5
