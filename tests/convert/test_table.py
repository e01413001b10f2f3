"""Import and export in pieces: any mesh, any dtype, and no byte more than needed."""

import logging

import jax
import ml_dtypes
import numpy as np
import pytest

from flashjax import trees
from flashjax.convert.table import Placement
from flashjax.convert.tensors import Tensors, in_memory
from flashjax.convert.transformer import abstract_transformer, transformer_from, transformer_to
from flashjax.models.mmdit import MMDiTConfig
from flashjax.parallel.layout import MMDIT
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import param_shardings

TINY = MMDiTConfig(depth=3, heads=4, dual=1, position_size=8, text_width=48, pooled_width=40)
NAMINGS = ["sai", "diffusers"]


@pytest.fixture
def params(random_params):
    return random_params(abstract_transformer(TINY))


def counting(tensors):
    """The same tensors, and how many elements of each were read."""
    read = dict.fromkeys(tensors, 0)

    def piece(name, start, stop):
        read[name] += stop - start
        return tensors.piece(name, start, stop)

    return Tensors(tensors.where, tensors.infos, piece), read


def stored(params, naming, dtype):
    found = transformer_to(params, TINY, naming)
    return in_memory({name: array.astype(dtype) for name, array in found.items()})


@pytest.mark.parametrize("naming", NAMINGS)
def test_on_a_mesh_every_element_is_read_once_and_lies_where_the_layout_says(naming, params):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    tensors, read = counting(stored(params, naming, np.float32))
    placement = Placement(None, lambda abstract: param_shardings(abstract, MMDIT, mesh))
    found = transformer_from(tensors, TINY, naming, placement)
    assert trees.digest(found) == trees.digest(params)
    wanted = trees.flatten(param_shardings(found, MMDIT, mesh))
    assert all(leaf.sharding == wanted[path] for path, leaf in trees.flatten(found).items())
    assert read == {name: info.size for name, info in tensors.infos.items()}


@pytest.mark.parametrize("naming", NAMINGS)
def test_sharded_parameters_are_exported_as_they_are(naming, params):
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    sharded = jax.device_put(params, param_shardings(params, MMDIT, mesh))
    whole, pieces = transformer_to(params, TINY, naming), transformer_to(sharded, TINY, naming)
    assert whole.infos == pieces.infos
    for name, array in whole.items():
        np.testing.assert_array_equal(pieces[name], array)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_a_dtype_is_kept_unless_another_is_chosen(dtype, params):
    source = stored(params, "sai", dtype)
    kept = transformer_from(source, TINY, "sai")
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {np.dtype(dtype)}
    for name, array in transformer_to(kept, TINY, "sai").items():
        np.testing.assert_array_equal(array, source[name])
    wide = transformer_from(source, TINY, "sai", Placement(np.dtype(ml_dtypes.bfloat16)))
    leaf = wide["final"]["kernel"]
    assert leaf.dtype == ml_dtypes.bfloat16
    exact = source["final_layer.linear.weight"].T.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.asarray(leaf), exact)


MIXES = {  # dtypes of the layers of one leaf: what holds them all
    ("float16", "float32"): "float32",
    ("float16", "bfloat16"): "float32",
    ("float8_e4m3fn", "bfloat16"): "bfloat16",
    ("float8_e4m3fn", "float8_e5m2"): "float16",
    ("float8_e4m3fn", "float16", "float8_e5m2"): "float16",
}


@pytest.mark.parametrize("dtypes", MIXES, ids="-".join)
def test_layers_of_one_leaf_in_several_dtypes_are_kept_exactly(params, dtypes, caplog):
    """Every number of an 8-bit type is one of float16's, and every one of 16 bits float32's."""
    arrays = dict(transformer_to(params, TINY, "diffusers"))
    names = [f"transformer_blocks.0.attn.to_{part}.weight" for block in (0,) for part in "qkv"]
    for name in arrays:
        arrays[name] = arrays[name].astype(dtypes[0])
    for name, dtype in zip(names, dtypes, strict=False):
        array = arrays[name].astype(dtype)
        if array.itemsize < 4:  # all numbers that there are of such a type
            codes = np.arange(2 ** (8 * array.itemsize), dtype=f"u{array.itemsize}").view(dtype)
            array = np.resize(codes[np.isfinite(codes.astype(np.float32))], array.shape)
        arrays[name] = array
    with caplog.at_level(logging.INFO):
        kept = transformer_from(in_memory(arrays), TINY, "diffusers")
    found = transformer_to(kept, TINY, "diffusers")
    assert found.infos[names[0]].dtype.name == MIXES[dtypes]
    for name, array in arrays.items():
        np.testing.assert_array_equal(
            found[name].astype(np.float32), array.astype(np.float32), err_msg=name
        )
    assert f"in layers that are kept as one: in {MIXES[dtypes]}" in caplog.text


def test_layers_of_one_leaf_in_several_dtypes_have_the_dtype_that_is_asked(params):
    arrays = dict(transformer_to(params, TINY, "diffusers"))
    name = "transformer_blocks.0.attn.to_q.weight"
    arrays[name] = arrays[name].astype(np.float16)
    wide = transformer_from(in_memory(arrays), TINY, "diffusers", Placement(np.dtype(np.float32)))
    found = transformer_from(
        in_memory(arrays), TINY, "diffusers", Placement(widest=np.dtype(np.float32))
    )
    assert trees.digest(found) == trees.digest(wide)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (np.float32, "bfloat16"),
        (np.float16, "float16"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (ml_dtypes.float8_e4m3fn, "bfloat16"),
    ],
)
def test_a_leaf_as_stored_is_no_wider_than_is_asked_and_of_16_bits_at_least(dtype, kept, params):
    widest = Placement(widest=np.dtype(ml_dtypes.bfloat16))
    found = transformer_from(stored(params, "sai", dtype), TINY, "sai", widest)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {kept}
