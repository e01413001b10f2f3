"""T5's files, loaded by transformers from GGUF and decoded by ComfyUI's own kernels."""

from pathlib import Path

import jax
import numpy as np
import pytest

from flashjax.convert.reading import open_safetensors
from flashjax.convert.tensors import Tensors
from flashjax.convert.text import abstract_t5, t5_from, t5_to
from flashjax.models.layers import apply
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.quantize.containers.gguf import open_gguf
from flashjax.quantize.containers.t5 import gguf_name, t5_bytes, write_t5
from flashjax.quantize.formats import dequantised
from flashjax.types import InputError

CONFIG = T5Config(vocabulary=48, width=256, depth=2, heads=4, head_width=64, hidden=512)


@pytest.fixture(scope="module")
def tensors(random_params) -> Tensors:
    return t5_to(random_params(abstract_t5(CONFIG)), CONFIG)


def ours(tensors: Tensors, ids: np.ndarray) -> np.ndarray:
    params = t5_from(tensors, CONFIG)
    return np.asarray(
        jax.jit(lambda params, ids: apply(T5Encoder(CONFIG), params, ids))(params, ids)
    )


def test_names_are_those_of_the_gguf_library(tensors) -> None:
    gguf = pytest.importorskip("gguf")
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, CONFIG.depth)
    for name in tensors.without("encoder.embed_tokens.weight"):
        assert gguf_name(name) == known.get_name(name.removesuffix(".weight")) + ".weight"
    with pytest.raises(InputError, match=r"decoder\.block\.0: T5 v1\.1's encoder has none"):
        gguf_name("decoder.block.0")


@pytest.mark.parametrize("name", ["t5-gguf-q8_0", "t5-gguf-q6_k"])
def test_transformers_computes_what_we_do_from_a_gguf(name: str, tensors, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    path = write_t5(name, tensors, CONFIG, tmp_path)
    assert 0 < path.stat().st_size - t5_bytes(name, CONFIG) < 4096  # names and sizes
    sizes = transformers.T5Config(  # of a GGUF transformers does not read which GELU it is
        vocab_size=48, d_model=256, num_layers=2, num_heads=4, d_kv=64, d_ff=512,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    loaded = transformers.T5EncoderModel.from_pretrained(
        tmp_path, gguf_file=path.name, config=sizes, dtype=torch.float32
    )
    ids = np.arange(14, dtype=np.int32).reshape(2, 7)
    with torch.no_grad():
        theirs = loaded.eval()(torch.tensor(ids)).last_hidden_state.numpy()
    stored = open_gguf(path)
    known = {gguf_name(key): key for key in tensors.without("encoder.embed_tokens.weight")}
    expected = ours(stored.renamed(known, where="gguf"), ids)
    np.testing.assert_allclose(theirs, expected, atol=2e-4 * np.abs(expected).max())


def test_a_scaled_fp8_file_holds_every_tensor(tensors, tmp_path: Path) -> None:
    stored = dequantised(open_safetensors(write_t5("t5-comfy-fp8", tensors, CONFIG, tmp_path)))
    for name in tensors.without("encoder.embed_tokens.weight"):
        error = stored[name].astype(np.float32) - tensors[name]
        assert np.abs(error).max() <= np.abs(tensors[name]).max() / 28  # e4m3 has 3 bits
