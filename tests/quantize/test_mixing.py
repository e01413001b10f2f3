"""Bits are spent where they lower the error of the output most, and never on what must be finer."""

import jax
import numpy as np
import pytest

from flashjax.convert.tensors import in_memory
from flashjax.convert.transformer import abstract_transformer, transformer_from, transformer_to
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.codecs.codec import Q6_K, Q8_0
from flashjax.quantize.containers.gguf import read_gguf
from flashjax.quantize.formats import MIXED, Model, write_format
from flashjax.quantize.mixing import choose_codecs, mixed
from flashjax.types import InputError

SIZES = {"a": 2560, "b": 2560, "c": 25600}
ERRORS = {"a": 1.0, "b": 3.0, "c": 4.0}
SIX_BIT = 30720 // 256 * 210
RAISE_A = 2560 // 32 * 34 - 2560 // 256 * 210  # bytes
CONFIG = MMDiTConfig(
    depth=2, heads=4, dual=1, position_size=8, text_width=64, pooled_width=64, head_width=64
)
SMALL = "joint_blocks.0.context_block.mlp.fc1.weight"
HEAVY = "joint_blocks.1.x_block.mlp.fc2.weight"


def error_of(name, codec):
    return ERRORS[name] if codec is Q6_K else 0.01


def test_the_best_gain_for_its_bytes_comes_first() -> None:
    one = choose_codecs(SIZES, error_of, budget_bytes=SIX_BIT + RAISE_A)
    assert [name for name, codec in one.items() if codec is Q8_0] == ["b"]
    two = choose_codecs(SIZES, error_of, budget_bytes=SIX_BIT + 2 * RAISE_A)
    assert [name for name, codec in two.items() if codec is Q8_0] == ["a", "b"]
    every = choose_codecs(SIZES, error_of, budget_bytes=SIX_BIT + 12 * RAISE_A)
    assert set(every.values()) == {Q8_0}


def test_a_budget_below_six_bits_is_refused() -> None:
    with pytest.raises(InputError, match="six bits"):
        choose_codecs(SIZES, error_of, budget_bytes=SIX_BIT - 1)


def test_a_mixed_file_keeps_its_size_its_best_weight_and_its_small_weights(
    random_params, tmp_path
) -> None:
    """One weight decides the output here; another is too small for six bits and costs eight.

    Weights that are tried lie as those that they replace: a jitted model is compiled once.
    """
    params = random_params(abstract_transformer(CONFIG))
    tensors = transformer_to(params, CONFIG, "sai")
    arrays = {name: tensors[name].copy() for name in tensors}
    arrays[SMALL] *= 0.002
    tensors = in_memory(arrays)
    params = transformer_from(tensors, CONFIG, "sai")
    heavy = params["last"]["image"]["fc2"]["kernel"]
    plain = write_format("gguf-q6_k", Model(tensors, CONFIG, "tiny"), tmp_path).stat().st_size
    budget = plain + 200_000

    compiled = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf.sum(), tree))

    def error(found) -> float:
        compiled(found)
        return float(np.square(found["last"]["image"]["fc2"]["kernel"] - heavy).sum())

    known = mixed(tensors, CONFIG, params, error, moments={}, size_bytes=budget)
    assert compiled._cache_size() == 1
    path = write_format(MIXED, Model(tensors, CONFIG, "tiny"), tmp_path, known)
    types = {name: entry.codec.name for name, entry in read_gguf(path).tensors.items()}
    assert plain < path.stat().st_size <= budget
    assert types[HEAVY] == types[SMALL] == "Q8_0"
    assert sum(kind == "Q8_0" for kind in types.values()) == 2
    with pytest.raises(InputError, match="allow more"):
        mixed(tensors, CONFIG, params, error, moments={}, size_bytes=plain // 2)
