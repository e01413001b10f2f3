"""The transformer as OpenVINO's IR: its graph, built from our weights, for any size of picture.

int8 weights are constants that a conversion and a scale follow: the form of NNCF, by which
OpenVINO's plugins know compressed weights and multiply by them as they are.
Source: OpenVINO operation sets 13 to 15; inputs and outputs as Hugging Face's exporters call them.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.convert.tensors import Tensors, in_memory
from flashjax.convert.transformer import transformer_rows
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.containers.packing import SCALE, WEIGHT
from flashjax.quantize.graphs.graph import EPSILON, INPUTS, MAX_PERIOD, OUTPUT, TIME_WIDTH, velocity
from flashjax.quantize.graphs.packages import package
from flashjax.quantize.policy import as_half

XML = "openvino_model.xml"  # where Hugging Face's loaders look for it


def write_openvino(folder: Path, tensors: Tensors, config: MMDiTConfig) -> None:
    """Writes the IR; `tensors` are SAI's, int8 where they have scales, the others in 16 bits."""
    openvino, nodes = package("openvino"), package("openvino.opset15")
    shapes = (
        [-1, config.channels, -1, -1],
        [-1, -1, config.text_width],
        [-1, config.pooled_width],
        [-1],
    )
    inputs = [
        nodes.parameter(shape, np.float32, name) for name, shape in zip(INPUTS, shapes, strict=True)
    ]
    for node, name in zip(inputs, INPUTS, strict=True):
        node.output(0).set_names({name})
    latents, text, pooled, timestep = inputs
    ops = OpenVINOOps(nodes, tensors, config, latents=latents, text=text)
    out = velocity(ops, config, latents, text, ops.reshape(pooled, [0, 1, -1]), timestep)
    out.output(0).set_names({OUTPUT})
    model = openvino.Model([out], inputs, "MMDiT-X")
    openvino.save_model(model, folder / XML, compress_to_fp16=False)  # it is, where it should be


class OpenVINOOps:
    """OpenVINO's nodes for `graph.velocity`; tokens are "b n d", heads "b h n k"."""

    def __init__(
        self, nodes: Any, tensors: Tensors, config: MMDiTConfig, *, latents: Any, text: Any
    ) -> None:
        self.nodes, self.tensors, self.config = nodes, tensors, config
        self.latents, self.text = latents, text

    def weight(self, name: str) -> Any:
        """SAI's tensor `name` as float32: int8 with scales, 16 bits, or vectors in float32."""
        nodes, array = self.nodes, self.tensors[name]
        scale = name.removesuffix(WEIGHT) + SCALE
        if array.ndim == 1:
            return nodes.constant(array.astype(np.float32), name=name)
        if name.endswith(WEIGHT) and scale in self.tensors:
            codes = nodes.convert(nodes.constant(array, name=name), "f32")
            scales = nodes.constant(self.tensors[scale].astype(np.float32), name=scale)
            return nodes.multiply(codes, scales)
        return nodes.convert(nodes.constant(as_half(array, name), name=name), "f32")

    def number(self, value: float) -> Any:
        return self.nodes.constant(value, np.float32)

    def index(self, value: Any) -> Any:
        return self.nodes.constant(value, np.int64)

    def reshape(self, x: Any, shape: Any) -> Any:
        """0 keeps a dim, -1 takes what is left."""
        shape = self.index(shape) if isinstance(shape, list) else shape
        return self.nodes.reshape(x, shape, special_zero=True)

    def linear(self, x: Any, name: str) -> Any:
        product = self.nodes.matmul(x, self.weight(f"{name}.weight"), False, True)
        return self.nodes.add(product, self.weight(f"{name}.bias"))

    def parts(self, x: Any, count: int) -> list[Any]:
        return self.nodes.split(x, self.index(-1), count).outputs()

    def add(self, x: Any, y: Any) -> Any:
        return self.nodes.add(x, y)

    def multiply(self, x: Any, y: Any) -> Any:
        return self.nodes.multiply(x, y)

    def one_plus(self, x: Any) -> Any:
        return self.nodes.add(x, self.number(1))

    def silu(self, x: Any) -> Any:
        return self.nodes.swish(x)

    def gelu(self, x: Any) -> Any:
        return self.nodes.gelu(x, "tanh")

    def layer_norm(self, x: Any) -> Any:
        return self.nodes.mvn(x, self.index([-1]), True, EPSILON, "INSIDE_SQRT")

    def heads(self, x: Any) -> Any:
        split = self.reshape(x, [0, 0, self.config.heads, self.config.head_width])
        return self.nodes.transpose(split, self.index([0, 2, 1, 3]))

    def rms_norm(self, x: Any, name: str) -> Any:
        mean = self.nodes.reduce_mean(self.nodes.multiply(x, x), self.index([-1]), keep_dims=True)
        root = self.nodes.sqrt(self.nodes.add(mean, self.number(EPSILON)))
        return self.nodes.multiply(self.nodes.divide(x, root), self.weight(name))

    def join(self, text: Any, image: Any) -> Any:
        return self.nodes.concat([text, image], 2)

    def apart(self, joint: Any) -> tuple[Any, Any]:
        sizes = self.nodes.concat([self.size_of(self.text, 1), self.index([-1])], 0)
        text, image = self.nodes.variadic_split(joint, self.index(1), sizes).outputs()
        return text, image

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        mixed = self.nodes.scaled_dot_product_attention(q, k, v, causal=False)
        return self.reshape(self.nodes.transpose(mixed, self.index([0, 2, 1, 3])), [0, 0, -1])

    def sinusoids(self, timestep: Any) -> Any:
        half = TIME_WIDTH // 2
        frequencies = np.exp(-math.log(MAX_PERIOD) * np.arange(half) / half)
        times = self.reshape(timestep, [-1, 1, 1])
        angles = self.nodes.multiply(times, self.nodes.constant(frequencies, np.float32))
        return self.nodes.concat([self.nodes.cos(angles), self.nodes.sin(angles)], -1)

    def patches(self, latents: Any) -> Any:
        nodes, config, stem = self.nodes, self.config, "x_embedder.proj"
        sides = [config.patch, config.patch]
        weight = self.weight(f"{stem}.weight")
        grid = nodes.convolution(latents, weight, sides, [0, 0], [0, 0], [1, 1])
        flat = self.reshape(grid, [0, config.width, -1])
        tokens = nodes.transpose(flat, self.index([0, 2, 1]))
        tokens = nodes.add(tokens, self.weight(f"{stem}.bias"))
        side = config.position_size
        table = self.reshape(self.weight("pos_embed"), [side, side, config.width])
        for axis in (0, 1):
            count = self.size_of(grid, 2 + axis)
            first = nodes.divide(nodes.subtract(self.index([side]), count), self.index([2]))
            table = nodes.slice(
                table, first, nodes.add(first, count), self.index([1]), self.index([axis])
            )
        return nodes.add(tokens, self.reshape(table, [1, -1, config.width]))

    def picture(self, tokens: Any) -> Any:
        nodes, patch, channels = self.nodes, self.config.patch, self.config.channels
        height, width = (self.size_of(self.latents, axis) for axis in (2, 3))
        rows, columns = (nodes.divide(side, self.index([patch])) for side in (height, width))
        batch = self.index([-1])
        grid = nodes.concat([batch, rows, columns, self.index([patch, patch, channels])], 0)
        cells = nodes.reshape(tokens, grid, special_zero=False)
        turned = nodes.transpose(cells, self.index([0, 5, 1, 3, 2, 4]))
        shape = nodes.concat([batch, self.index([channels]), height, width], 0)
        return nodes.reshape(turned, shape, special_zero=False)

    def size_of(self, x: Any, axis: int) -> Any:
        """The size of a dim as a vector of one number."""
        return self.nodes.gather(self.nodes.shape_of(x), self.index([axis]), self.index(0))


def open_openvino(folder: Path, config: MMDiTConfig) -> Tensors:
    """The tensors of an IR that `write_openvino` wrote, under SAI's names, as they are stored."""
    openvino = package("openvino")
    model = openvino.Core().read_model(folder / XML)
    stored = {
        op.get_friendly_name(): op.data
        for op in model.get_ops()
        if op.get_type_name() == "Constant"
    }
    names = [name for row in transformer_rows(config, "sai") for name in row.keys]
    scales = [name.removesuffix(WEIGHT) + SCALE for name in names]
    return in_memory({name: stored[name] for name in names + scales if name in stored}, str(folder))
