"""Rounding for outputs: what it is for, and that the container stays Q6_K's."""

import gguf
import numpy as np

from flashjax.quantize.codecs.codec import Q6_K
from flashjax.quantize.codecs.feedback import encode_q6_k_for


def correlated() -> tuple[np.ndarray, np.ndarray]:
    """A weight (64, 512) and inputs (2048, 512) that lie near 100 directions."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(2048, 100)) @ random.normal(size=(100, 512))
    inputs += 0.1 * random.normal(size=inputs.shape)
    return random.normal(scale=0.02, size=(64, 512)).astype(np.float32), inputs


def test_outputs_gain_what_single_weights_lose() -> None:
    weight, inputs = correlated()
    fit, unseen = inputs[:1024], inputs[1024:]
    codes = np.asarray(encode_q6_k_for(weight, fit.T @ fit / len(fit)))
    ours = gguf.quants.dequantize(codes, gguf.GGMLQuantizationType.Q6_K)
    plain = np.asarray(Q6_K.decode(Q6_K.encode(weight)))
    wrong, plain_wrong = (np.square(unseen @ (w - weight).T).sum() for w in (ours, plain))
    assert wrong < 0.5 * plain_wrong
    assert np.square(ours - weight).sum() > np.square(plain - weight).sum()


def test_independent_inputs_leave_nothing_to_pass_on() -> None:
    weight, _ = correlated()
    codes = encode_q6_k_for(weight, np.eye(512))
    nearest = Q6_K.encode(weight, np.ones_like(weight))
    np.testing.assert_allclose(Q6_K.decode(codes), Q6_K.decode(nearest), atol=1e-6)
