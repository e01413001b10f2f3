"""T5 in 8 and 6 bits: of all that a deployment of SD3.5-Medium holds, it weighs the most.

GGUF under llama.cpp's names (ComfyUI-GGUF, stable-diffusion.cpp, transformers) and ComfyUI's own
scaled layers. CLIP and the autoencoder are left in 16 bits: together they weigh a fifth of T5.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flashjax.convert.reading import open_safetensors
from flashjax.convert.scales import dequantised
from flashjax.convert.tensors import Shape, Tensors, shapes_only
from flashjax.convert.text import TWIN, t5_infos
from flashjax.convert.writing import write_safetensors
from flashjax.models.t5 import T5Config
from flashjax.quantize.codecs.codec import F32, Q6_K, Q8_0, Codec
from flashjax.quantize.codecs.tensors import encode_tensor
from flashjax.quantize.containers.gguf import EncodedTensor, is_gguf, open_gguf, write_gguf
from flashjax.quantize.containers.packing import WEIGHT, packed
from flashjax.quantize.containers.packings import COMFY_FP8
from flashjax.types import InputError

ARCHITECTURE = "t5encoder"
EPSILON = 1e-6  # of its norms
GGUF_NAMES = {  # transformers' -> llama.cpp's
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}
FILE_TYPES = {Q8_0: 7, Q6_K: 18}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor that transformers calls `name`. InputError if T5 has no such."""
    module = name.removesuffix(WEIGHT)
    found = re.match(r"encoder\.block\.(\d+)\.", module)
    inner = module[found.end() :] if found else module
    if inner not in GGUF_NAMES:
        raise InputError(f"tensor {name}: T5 v1.1's encoder has none of that name")
    prefix = f"enc.blk.{found[1]}." if found else ""
    return prefix + GGUF_NAMES[inner] + WEIGHT


def _write_gguf(path: Path, tensors: Tensors, config: T5Config, codec: Codec) -> None:
    keys: dict[str, str | int | float] = {
        "general.architecture": ARCHITECTURE,
        "general.quantization_version": 2,
        "general.file_type": FILE_TYPES[codec],
    }
    sizes = {
        "context_length": 512,
        "block_count": config.depth,
        "embedding_length": config.width,
        "feed_forward_length": config.hidden,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.heads,
        "attention.key_length": config.head_width,
        "attention.value_length": config.head_width,
        "attention.layer_norm_rms_epsilon": EPSILON,
        "attention.layer_norm_epsilon": EPSILON,
        "attention.relative_buckets_count": config.buckets,
        "vocab_size": config.vocabulary,
    }
    keys |= {f"{ARCHITECTURE}.{name}": value for name, value in sizes.items()}
    write_gguf(path, _encoded(tensors, codec), keys=keys)


def _encoded(tensors: Tensors, codec: Codec) -> Iterator[EncodedTensor]:
    """Matrices in `codec`; norms and the table of position biases stay float32."""
    for name, info in tensors.infos.items():
        chosen = _codec_of(name, info.shape, codec)
        codes, _ = encode_tensor(array := tensors[name], chosen, name=name)
        yield EncodedTensor(gguf_name(name), array.shape, chosen, codes)


def _codec_of(name: str, shape: Shape, codec: Codec) -> Codec:
    fits = len(shape) == 2 and "bias" not in name and not shape[1] % codec.block
    return codec if fits else F32


def _scaled(tensors: Tensors) -> Tensors:
    """Matrices as ComfyUI's scaled float8."""
    return packed(tensors, COMFY_FP8, chosen=of_t5_block)


def of_t5_block(name: str, shape: Shape) -> bool:
    """Chooses the matrices of blocks: the table of tokens, norms and position biases stay."""
    del shape
    return name.startswith("encoder.block.") and "bias" not in name


T5_FORMATS: dict[str, tuple[str, Codec | None]] = {  # format: (its file, GGUF's type)
    "t5-gguf-q8_0": ("t5-q8_0.gguf", Q8_0),
    "t5-gguf-q6_k": ("t5-q6_k.gguf", Q6_K),
    "t5-comfy-fp8": ("t5-comfy-fp8.safetensors", None),
}


def t5_bytes(format_name: str, config: T5Config) -> int:
    """Bytes of T5's tensors in one of T5_FORMATS, from shapes alone."""
    infos, (_, codec) = t5_infos(config, np.dtype(np.float16)), T5_FORMATS[format_name]
    if codec is None:
        return _scaled(shapes_only(infos)).nbytes
    return sum(
        _codec_of(name, info.shape, codec).encoded_bytes(info.size) for name, info in infos.items()
    )


def write_t5(format_name: str, tensors: Tensors, config: T5Config, out: Path) -> Path:
    """Writes transformers' `tensors` in one of T5_FORMATS under `out`. Returns the file's path."""
    file, codec = T5_FORMATS[format_name]
    out.mkdir(parents=True, exist_ok=True)
    once = tensors.without(TWIN)
    if codec is None:
        write_safetensors(out / file, _scaled(once))
    else:
        _write_gguf(out / file, once, config, codec)
    return out / file


def read_back(path: Path, tensors: Tensors) -> tuple[Tensors, Tensors]:
    """What `write_t5` was given, and what the file stands for, both under the file's own names."""
    once = tensors.without(TWIN)
    if not is_gguf(path):
        return once, dequantised(open_safetensors(path))
    names = {name: gguf_name(name) for name in once}
    return once.renamed(names, where=once.where), open_gguf(path)
