"""A small SD3.5 transformer as GGUF: types, keys, fidelity, and diffusers' own loader."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from flashjax.quantize.containers.gguf import read_gguf
from flashjax.quantize.containers.gguf_export import quantize_transformer
from flashjax.types import InputError

WIDTH, TEXT, POOLED, GRID = 256, 96, 64, 4


def stream(adaln: int, *, full: bool = True, dual: bool = False) -> dict[str, tuple]:
    """Shapes of one stream of a joint block; `full` streams have an output and an MLP."""
    linears = {"adaLN_modulation.1": (adaln * WIDTH, WIDTH)}
    norms = {}
    for attention in ("attn", "attn2") if dual else ("attn",):
        linears[f"{attention}.qkv"] = (3 * WIDTH, WIDTH)
        norms |= {f"{attention}.ln_q.weight": (64,), f"{attention}.ln_k.weight": (64,)}
        if full:
            linears[f"{attention}.proj"] = (WIDTH, WIDTH)
    if full:
        linears |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    return norms | with_biases(linears)


def with_biases(linears: dict[str, tuple]) -> dict[str, tuple]:
    weights = {f"{name}.weight": shape for name, shape in linears.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in linears.items()}


def tiny_transformer() -> dict[str, np.ndarray]:
    """Random weights of an MMDiT-X with 2 blocks, the first dual, under SAI names."""
    edges = {
        "x_embedder.proj": (WIDTH, 16, 2, 2),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "y_embedder.mlp.0": (WIDTH, POOLED),
        "y_embedder.mlp.2": (WIDTH, WIDTH),
        "context_embedder": (WIDTH, TEXT),
        "final_layer.linear": (64, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    streams = {
        "joint_blocks.0.x_block": stream(9, dual=True),
        "joint_blocks.0.context_block": stream(6),
        "joint_blocks.1.x_block": stream(6),
        "joint_blocks.1.context_block": stream(2, full=False),
    }
    shapes = {"pos_embed": (1, GRID**2, WIDTH)} | with_biases(edges)
    for prefix, names in streams.items():
        shapes |= {f"{prefix}.{name}": shape for name, shape in names.items()}
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(scale=0.05, size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("scheme", "block_type", "file_type", "floor_db"),
    [("f16", "F16", 1, 70), ("q8_0", "Q8_0", 7, 45), ("q6_k", "Q6_K", 18, 34.5)],
)
def test_the_summary_says_what_the_file_holds(
    tmp_path: Path, scheme: str, block_type: str, file_type: int, floor_db: float
) -> None:
    tensors, path = tiny_transformer(), tmp_path / "model.gguf"
    summary = quantize_transformer(iter(tensors.items()), scheme=scheme, path=path)
    file = read_gguf(path)
    assert file.keys == {
        "general.architecture": "sd3",
        "general.quantization_version": 2,
        "general.file_type": file_type,
    }
    assert list(file.tensors) == list(summary) == list(tensors)
    for name, row in summary.items():
        entry = file.tensors[name]
        assert (entry.codec.name, entry.shape, entry.nbytes) == (row.type, row.shape, row.bytes)
        assert entry.shape == tensors[name].shape
        assert row.snr_db >= floor_db
    assert summary["joint_blocks.1.x_block.mlp.fc2.weight"].type == block_type
    total = sum(row.bytes for row in summary.values())
    assert total <= path.stat().st_size <= total + 64 * len(summary) * 2


def test_small_weights_are_named_in_the_summary(tmp_path: Path) -> None:
    gate = "joint_blocks.0.x_block.adaLN_modulation.1.weight"
    tensors = tiny_transformer()
    tensors[gate] *= 0.004
    summary = quantize_transformer(tensors.items(), scheme="q6_k", path=tmp_path / "model.gguf")
    assert summary[gate].type == "Q8_0"
    assert summary[gate].reason == "weights too small for Q6_K (rms 2.0e-04)"


def test_a_tensor_given_twice_is_refused(tmp_path: Path) -> None:
    twice = [("pos_embed", np.ones((1, 4, 256), np.float32))] * 2
    with pytest.raises(InputError, match="pos_embed: given twice"):
        quantize_transformer(twice, scheme="q8_0", path=tmp_path / "model.gguf")


@pytest.mark.parametrize("scheme", ["q8_0", "q6_k"])
def test_diffusers_loads_the_file_and_sees_our_weights(tmp_path: Path, scheme: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    config = dict(
        attention_head_dim=64, num_attention_heads=4, num_layers=2, dual_attention_layers=[0],
        caption_projection_dim=WIDTH, joint_attention_dim=TEXT, pooled_projection_dim=POOLED,
        pos_embed_max_size=GRID, qk_norm="rms_norm", sample_size=8,
    )  # fmt: skip
    model = diffusers.SD3Transformer2DModel(**config)
    model.save_config(tmp_path / "transformer")
    path = tmp_path / "model.gguf"
    quantize_transformer(tiny_transformer().items(), scheme=scheme, path=path)
    loaded = diffusers.SD3Transformer2DModel.from_single_file(
        str(path), config=str(tmp_path), subfolder="transformer",
        quantization_config=diffusers.GGUFQuantizationConfig(),
    )  # fmt: skip
    theirs = dequantize_gguf_tensor(loaded.transformer_blocks[0].attn2.to_k.weight)
    ours = read_gguf(path).array("joint_blocks.0.x_block.attn2.qkv.weight")[WIDTH : 2 * WIDTH]
    np.testing.assert_allclose(theirs.float().numpy(), ours, rtol=2e-3)  # theirs is float16
    assert tuple(loaded.pos_embed.pos_embed.shape) == (1, GRID**2, WIDTH)


def test_a_table_without_its_leading_one_is_written_with_it(tmp_path: Path) -> None:
    """stable-diffusion.cpp's own files have "n width"; diffusers and ComfyUI want "1 n width"."""
    tensors = tiny_transformer()
    whole, path = tensors["pos_embed"], tmp_path / "model.gguf"
    tensors["pos_embed"] = whole[0]
    quantize_transformer(tensors.items(), scheme="q8_0", path=path)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    # ComfyUI-GGUF: the sizes as they are stored, in numpy's order.
    shapes = {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in found.items()}
    assert shapes == {name: array.shape for name, array in tiny_transformer().items()}
    # stable-diffusion.cpp: four sizes, ones where there are fewer, equal to those of its layers.
    for name, array in tiny_transformer().items():
        read, wanted = ([*sizes, 1, 1, 1][:4] for sizes in (found[name].shape, array.shape[::-1]))
        assert read == wanted
    table = found["pos_embed"].data.reshape(whole.shape)
    np.testing.assert_array_equal(table, whole.astype(np.float16))
