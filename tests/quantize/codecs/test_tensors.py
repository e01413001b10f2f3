"""Whole tensors: chunk borders, fidelity figures, refusals."""

import gguf
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flashjax.parallel.hlo import collectives
from flashjax.parallel.mesh import make_mesh
from flashjax.quantize.codecs.codec import F16, F32, Q6_K, Q8_0
from flashjax.quantize.codecs.kquants import fit_rows
from flashjax.quantize.codecs.tensors import (
    CACHED_ROWS,
    CHUNK_COLUMNS,
    decode_tensor,
    encode_sharded,
    encode_tensor,
)
from flashjax.types import InputError


def test_chunks_join_without_a_seam() -> None:
    array = np.random.default_rng(0).normal(size=(CACHED_ROWS + 3, 256)).astype(np.float32)
    codes, snr_db = encode_tensor(array, Q8_0, name="w")
    expected = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(codes, expected.reshape(-1))
    decoded = decode_tensor(codes, Q8_0, shape=array.shape)
    assert decoded.shape == array.shape
    noise = np.square(decoded.astype(np.float64) - array).sum()
    assert snr_db == pytest.approx(10 * np.log10(np.square(array).sum() / noise), abs=1e-3)


@pytest.mark.parametrize(
    ("codec", "spec"),
    [(Q8_0, ("fsdp",)), (Q8_0, (None, "tensor")), (Q6_K, ("fsdp", "tensor"))],
    ids=["Q8_0 rows", "Q8_0 columns", "Q6_K both"],
)
def test_eight_devices_write_the_bytes_that_one_writes(codec, spec) -> None:
    array = np.random.default_rng(0).normal(size=(8, 1024)).astype(np.float32)
    laid_out = NamedSharding(make_mesh({"fsdp": 4, "tensor": 2}), PartitionSpec(*spec))
    codes = encode_sharded(jax.device_put(array, laid_out), codec)
    assert codes.sharding.is_equivalent_to(laid_out, 2)
    expected, _ = encode_tensor(array, codec, name="w")
    np.testing.assert_array_equal(np.asarray(codes).reshape(-1), expected)


def test_no_device_asks_another_for_weights() -> None:
    """What a chunk of every device runs through has no collective in it."""
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    rows = NamedSharding(mesh, PartitionSpec(("fsdp", "tensor")))
    chunks = jax.ShapeDtypeStruct((8 * CACHED_ROWS, CHUNK_COLUMNS), np.float32, sharding=rows)
    assert not collectives(fit_rows.lower(chunks, None).compile().as_text(), mesh)
    assert not collectives(Q8_0.encode.lower(chunks).compile().as_text(), mesh)


def test_a_part_of_broken_blocks_is_refused() -> None:
    laid_out = NamedSharding(make_mesh({"fsdp": 4, "tensor": 2}), PartitionSpec(None, "tensor"))
    weight = jax.device_put(np.ones((8, 256), np.float32), laid_out)
    with pytest.raises(InputError, match=r"on a device \(8, 128\): Q6_K needs rows"):
        encode_sharded(weight, Q6_K)


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
