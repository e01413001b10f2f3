"""The safe profile, name by name."""

import pytest

from flashjax.quantize.policy import choose
from flashjax.types import InputError

BLOCK = "joint_blocks.0.x_block."


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (BLOCK + "attn.qkv.weight", (768, 256), "Q6_K"),
        (BLOCK + "adaLN_modulation.1.weight", (1536, 256), "Q6_K"),
        ("joint_blocks.3.context_block.mlp.fc2.weight", (256, 1024), "Q6_K"),
        (BLOCK + "attn.qkv.bias", (768,), "F32"),
        (BLOCK + "attn.ln_q.weight", (64,), "F32"),
        ("x_embedder.proj.bias", (256,), "F32"),
        ("pos_embed", (1, 64, 256), "F16"),
        ("x_embedder.proj.weight", (256, 16, 2, 2), "F16"),
        ("context_embedder.weight", (256, 512), "F16"),
        ("t_embedder.mlp.0.weight", (256, 256), "F16"),
        ("y_embedder.mlp.2.weight", (256, 256), "F16"),
        ("final_layer.linear.weight", (64, 256), "F16"),
    ],
)
def test_each_tensor_gets_the_type_every_loader_reads(name, shape, expected) -> None:
    assert choose(name, shape, scheme="q6_k", rms=0.02).codec.name == expected


@pytest.mark.parametrize(
    ("columns", "scheme", "expected"),
    [
        (2432, "q6_k", "Q8_0"),
        (2432, "q5_k", "Q8_0"),
        (2432, "q4_k", "Q8_0"),
        (2432, "q8_0", "Q8_0"),
        (2430, "q6_k", "F16"),
        (2430, "q8_0", "F16"),
    ],
)
def test_rows_that_a_type_cannot_hold_get_the_next_finer_one(columns, scheme, expected) -> None:
    choice = choose(BLOCK + "attn.proj.weight", (2432, columns), scheme=scheme, rms=0.02)
    assert choice.codec.name == expected
    assert (f"{columns} columns are not" in choice.reason) == (expected.lower() != scheme)


@pytest.mark.parametrize(
    ("scheme", "rms", "expected"),
    [
        ("q6_k", 5e-4, "Q6_K"),
        ("q6_k", 4e-4, "Q8_0"),
        ("q6_k", 9e-5, "F16"),
        ("q6_k", 0.0, "Q6_K"),
        ("q8_0", 4e-4, "Q8_0"),
        ("q8_0", 9e-5, "F16"),
        ("f16", 9e-5, "F16"),
    ],
)
def test_small_weights_get_a_finer_type_and_a_reason(scheme, rms, expected) -> None:
    choice = choose(BLOCK + "attn.proj.weight", (256, 256), scheme=scheme, rms=rms)
    assert choice.codec.name == expected
    assert ("too small" in choice.reason) == (expected.lower() != scheme)


def test_unknown_schemes_and_diffusers_names_are_refused() -> None:
    with pytest.raises(InputError, match="q2_k"):
        choose("pos_embed", (1, 4, 256), scheme="q2_k", rms=1.0)
    with pytest.raises(InputError, match="not an SAI key"):
        choose("transformer_blocks.0.attn.to_q.weight", (256, 256), scheme="q8_0", rms=1.0)
