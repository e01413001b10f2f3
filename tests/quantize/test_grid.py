"""Weights on the grid are what the file stands for, and nothing else moves."""

import jax
import numpy as np

from flashjax import trees
from flashjax.convert.transformer import abstract_transformer, transformer_from, transformer_to
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.formats import Model, open_format, write_format
from flashjax.quantize.grid import on_grid

CONFIG = MMDiTConfig(
    depth=3, heads=4, dual=1, position_size=8, text_width=64, pooled_width=64, head_width=64
)


def test_what_is_computed_with_is_what_the_file_stands_for(random_params, tmp_path) -> None:
    params = jax.tree.map(jax.numpy.asarray, random_params(abstract_transformer(CONFIG)))
    tensors = transformer_to(params, CONFIG, "sai")
    found = trees.flatten(on_grid(tensors, CONFIG, scheme="q6_k")(params))
    path = write_format("gguf-q6_k", Model(tensors, CONFIG, "tiny"), tmp_path)
    stored = trees.flatten(transformer_from(open_format(path, CONFIG), CONFIG, "sai"))
    before = trees.flatten(params)
    blocks = [name for name in found if name.split("/")[0] in ("dual", "joint", "last")]
    for name in blocks:
        np.testing.assert_array_equal(found[name], stored[name])
    assert any(np.any(found[name] != before[name]) for name in blocks)
    for name in found.keys() - set(blocks):
        np.testing.assert_array_equal(found[name], before[name])
