"""What stands beside the transformer, as ONNX: CLIP, T5 and the decoder of pictures.

Tensors are transformers' and diffusers'; inputs and outputs are called, and ordered, as Hugging
Face's exporters do it, so that the pipelines of Optimum and OpenVINO GenAI load them.
Source: `models/clip.py`, `models/t5.py`, `models/vae.py`; ONNX operators, opset 21.
"""

import math
from pathlib import Path

import numpy as np

from flashjax.convert.tensors import Tensors
from flashjax.models.clip import CLIPConfig
from flashjax.models.t5 import T5Config, relative_buckets
from flashjax.models.vae import VAEConfig
from flashjax.quantize.graphs.onnx_graph import IDS, Dims
from flashjax.quantize.graphs.onnx_layers import OnnxLayers

TOKENS = {IDS: ("batch", "tokens")}
CLIP_EPSILON, EPSILON = 1e-5, 1e-6  # of CLIP's norms; of T5's and the autoencoder's


def write_clip(folder: Path, tensors: Tensors, config: CLIPConfig) -> None:
    """`CLIPTextModelWithProjection`: the pooled vector, then the hidden states, all of them."""
    with OnnxLayers(folder, tensors) as graph:
        length, width = graph.size_of(IDS, 1), config.width
        places = graph.weight("text_model.embeddings.position_embedding.weight")
        places = graph.sliced(places, graph.constant([0]), length, axis=0)
        x = graph.embedded(IDS, "text_model.embeddings.token_embedding.weight")
        states = [graph.add(x, places)]
        mask = graph.constant(np.triu(np.full(2 * [config.length], -np.inf), 1), np.float32)
        for axis in (0, 1):
            mask = graph.sliced(mask, graph.constant([0]), length, axis=axis)
        for layer in range(config.depth):
            states.append(_clip_block(graph, config, layer, states[-1], mask))
        last = _layer_norm(graph, states[-1], "text_model.final_layer_norm")
        end = graph.node("ArgMax", IDS, axis=1, keepdims=1)  # the largest id, at its first place
        pooled = graph.node("GatherND", last, end, batch_dims=1)
        if config.projection:
            pooled = graph.linear(pooled, "text_projection")
        hidden = ("batch", "tokens", width)
        outputs: dict[str, tuple[str, Dims]] = {
            "text_embeds": (pooled, ("batch", config.projection or width)),
            "last_hidden_state": (last, hidden),
        }
        outputs |= {f"hidden_states.{i}": (state, hidden) for i, state in enumerate(states)}
        graph.save("CLIP", TOKENS, outputs)


def _clip_block(graph: OnnxLayers, config: CLIPConfig, layer: int, x: str, mask: str) -> str:
    stem, scale = f"text_model.encoder.layers.{layer}", math.sqrt(config.heads / config.width)
    normed = _layer_norm(graph, x, f"{stem}.layer_norm1")
    q, k, v = (
        graph.as_heads(graph.linear(normed, f"{stem}.self_attn.{part}_proj"), config.heads)
        for part in "qkv"
    )
    mixed = graph.mixed(q, k, v, scale=scale, bias=mask)
    x = graph.add(x, graph.linear(mixed, f"{stem}.self_attn.out_proj"))
    hidden = graph.linear(_layer_norm(graph, x, f"{stem}.layer_norm2"), f"{stem}.mlp.fc1")
    if config.activation == "quick_gelu":
        sharp = graph.multiply(hidden, graph.constant(1.702, np.float32))
        hidden = graph.multiply(hidden, graph.node("Sigmoid", sharp))
    else:
        hidden = graph.node("Gelu", hidden)
    return graph.add(x, graph.linear(hidden, f"{stem}.mlp.fc2"))


def _layer_norm(graph: OnnxLayers, x: str, name: str) -> str:
    scale, bias = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
    return graph.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=CLIP_EPSILON)


def write_t5(folder: Path, tensors: Tensors, config: T5Config) -> None:
    """`T5EncoderModel`: hidden states after the final norm, of any number of tokens."""
    with OnnxLayers(folder, tensors) as graph:
        bias = _position_bias(graph, config)
        x = graph.embedded(IDS, "shared.weight")
        for layer in range(config.depth):
            x = _t5_block(graph, config, f"encoder.block.{layer}.layer", x, bias)
        x = graph.scaled_norm(x, "encoder.final_layer_norm.weight", epsilon=EPSILON)
        hidden = ("batch", "tokens", config.width)
        graph.save("T5", TOKENS, {"last_hidden_state": (x, hidden)})


def _t5_block(graph: OnnxLayers, config: T5Config, stem: str, x: str, bias: str) -> str:
    normed = graph.scaled_norm(x, f"{stem}.0.layer_norm.weight", epsilon=EPSILON)
    q, k, v = (
        graph.as_heads(graph.linear(normed, f"{stem}.0.SelfAttention.{part}"), config.heads)
        for part in "qkv"
    )
    mixed = graph.mixed(q, k, v, scale=1, bias=bias)
    x = graph.add(x, graph.linear(mixed, f"{stem}.0.SelfAttention.o"))
    normed, dense = (
        graph.scaled_norm(x, f"{stem}.1.layer_norm.weight", epsilon=EPSILON),
        f"{stem}.1.DenseReluDense",
    )
    gate = graph.node("Gelu", graph.linear(normed, f"{dense}.wi_0"), approximate="tanh")
    hidden = graph.multiply(gate, graph.linear(normed, f"{dense}.wi_1"))
    return graph.add(x, graph.linear(hidden, f"{dense}.wo"))


def _position_bias(graph: OnnxLayers, config: T5Config) -> str:
    """What is added to the logits, "1 h m m": beyond the largest distance it changes no more."""
    far = config.max_distance
    buckets = relative_buckets(2 * far + 1, config.buckets, far)[far]  # of -far, ..., far
    length = graph.node("Squeeze", graph.size_of(IDS, 1))
    places = graph.node("Range", graph.constant(0), length, graph.constant(1))
    distance = graph.node("Sub", graph.reshape(places, [1, -1]), graph.reshape(places, [-1, 1]))
    near = graph.node("Clip", distance, graph.constant(-far), graph.constant(far))
    bucket = graph.node("Gather", graph.constant(buckets), graph.add(near, graph.constant(far)))
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    bias = graph.node("Transpose", graph.embedded(bucket, name), perm=[2, 0, 1])
    return graph.node("Unsqueeze", bias, graph.constant([0]))


def write_decoder(folder: Path, tensors: Tensors, config: VAEConfig) -> None:
    """`AutoencoderKL.decode`: latents, neither scaled nor shifted, to a picture in [-1, 1]."""
    with OnnxLayers(folder, tensors) as graph:
        latents, levels = "latent_sample", len(config.channels)
        x = _conv(graph, latents, "decoder.conv_in")
        x = _resnet(graph, config, x, "decoder.mid_block.resnets.0")
        x = _spatial_attention(graph, config, x, "decoder.mid_block.attentions.0")
        x = _resnet(graph, config, x, "decoder.mid_block.resnets.1")
        for level in range(levels):
            stem = f"decoder.up_blocks.{level}"
            for index in range(config.layers + 1):
                x = _resnet(graph, config, x, f"{stem}.resnets.{index}")
            if level < levels - 1:
                x = _conv(graph, _doubled(graph, x), f"{stem}.upsamplers.0.conv")
        x = graph.silu(_group_norm(graph, config, x, "decoder.conv_norm_out"))
        picture = _conv(graph, x, "decoder.conv_out")
        inputs = {latents: ("batch", config.latent_channels, "height", "width")}
        graph.save("decoder", inputs, {"sample": (picture, ("batch", 3, "rows", "columns"))})


def _conv(graph: OnnxLayers, x: str, name: str) -> str:
    """A convolution that keeps the size."""
    kernel = list(graph.tensors.shapes[f"{name}.weight"][2:])
    weight, bias = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
    return graph.node("Conv", x, weight, bias, pads=2 * [size // 2 for size in kernel])


def _doubled(graph: OnnxLayers, x: str) -> str:
    """Every pixel as four."""
    scales = graph.constant([1, 1, 2, 2], np.float32)
    return graph.node(
        "Resize",
        x,
        "",
        scales,
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def _resnet(graph: OnnxLayers, config: VAEConfig, x: str, name: str) -> str:
    y = x
    for number in (1, 2):
        y = graph.silu(_group_norm(graph, config, y, f"{name}.norm{number}"))
        y = _conv(graph, y, f"{name}.conv{number}")
    if f"{name}.conv_shortcut.weight" in graph.tensors:
        x = _conv(graph, x, f"{name}.conv_shortcut")
    return graph.add(x, y)


def _spatial_attention(graph: OnnxLayers, config: VAEConfig, x: str, name: str) -> str:
    """One head over all pixels."""
    width = config.channels[-1]
    normed = _group_norm(graph, config, x, f"{name}.group_norm")
    tokens = graph.node("Transpose", graph.reshape(normed, [0, 0, -1]), perm=[0, 2, 1])
    q, k, v = (graph.as_heads(graph.linear(tokens, f"{name}.to_{part}"), 1) for part in "qkv")
    mixed = graph.linear(graph.mixed(q, k, v, scale=width**-0.5), f"{name}.to_out.0")
    turned = graph.node("Transpose", mixed, perm=[0, 2, 1])
    return graph.add(x, graph.node("Reshape", turned, graph.node("Shape", x)))


def _group_norm(graph: OnnxLayers, config: VAEConfig, x: str, name: str) -> str:
    """By instances of channels' groups: an operation that every runtime has."""
    groups = config.groups
    ones, zeros = (graph.constant(np.full(groups, value), np.float32) for value in (1, 0))
    flat = graph.reshape(x, [0, groups, -1])
    normed = graph.node("InstanceNormalization", flat, ones, zeros, epsilon=EPSILON)
    normed = graph.node("Reshape", normed, graph.node("Shape", x))
    scale, bias = (
        graph.reshape(graph.weight(f"{name}.{part}"), [-1, 1, 1]) for part in ("weight", "bias")
    )
    return graph.add(graph.multiply(normed, scale), bias)
