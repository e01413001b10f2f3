"""Core ML's packings of one weight, against coremltools' own k-means and decoders."""

import numpy as np
import pytest

from flashjax.quantize.codecs.palettes import HALF_SCALED_INT8, PALETTE


def weights(kind: str) -> np.ndarray:
    random = np.random.default_rng(0)
    made = {
        "normal": random.normal(size=(256, 256)),
        "heavy": random.standard_t(4, size=(256, 256)),
    }
    return (0.02 * made[kind]).astype(np.float32)


def squared(error: np.ndarray) -> float:
    return float(np.square(error, dtype=np.float64).sum())


@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_a_palette_is_within_five_percent_of_the_best_there_is(kind: str) -> None:
    """Exact one-dimensional k-means; ours is Lloyd's, which only ever finds a near one."""
    pytest.importorskip("coremltools")
    from coremltools._deps import _kmeans1d

    weight = weights(kind)
    index, centres = _kmeans1d.cluster(weight.reshape(-1), 64)
    best = squared(np.array(centres)[index] - weight.reshape(-1))
    parts = {suffix: make(weight) for suffix, make in PALETTE.parts.items()}
    assert squared(np.asarray(PALETTE.unpack(parts)) - weight) < 1.05 * best


def test_coremltools_decodes_both_packings_as_we_do() -> None:
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops as ops

    weight = weights("heavy")
    parts = {suffix: np.asarray(make(weight)) for suffix, make in PALETTE.parts.items()}
    theirs = ops.constexpr_lut_to_dense.decompress(
        parts[".lut"], parts[".indices"].reshape(-1), weight.shape
    )
    np.testing.assert_array_equal(theirs, np.asarray(PALETTE.unpack(parts)))
    parts = {suffix: np.asarray(make(weight)) for suffix, make in HALF_SCALED_INT8.parts.items()}
    theirs = ops.constexpr_affine_dequantize.decompress(
        parts[".weight"], np.int8(0), parts[".weight_scale"][:, 0], 0
    )
    exact = np.asarray(HALF_SCALED_INT8.unpack(parts))
    np.testing.assert_array_equal(theirs, exact.astype(np.float16))


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_weight_of_one_value_is_kept_as_it_is(value: float) -> None:
    weight = np.full((4, 8), value, np.float32)
    for packing in (PALETTE, HALF_SCALED_INT8):
        parts = {suffix: make(weight) for suffix, make in packing.parts.items()}
        np.testing.assert_allclose(np.asarray(packing.unpack(parts)), weight, rtol=1e-3)
